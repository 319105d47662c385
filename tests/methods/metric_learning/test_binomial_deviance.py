import torch
from torch.nn.functional import normalize, softplus

from methods.metric_learning.binomial_deviance import BinomialDeviance
from tests.support.metric_batches import batch, of


def test_one_pair_of_each_kind_is_logistic_regression_on_the_cosine():
    x = batch(0, rows=3, classes=1)[0]
    unit = normalize(x, dim=1)
    s = unit @ unit.T
    method = BinomialDeviance(alpha=3.0, threshold=0.0, negative_cost=1.0)
    negatives = softplus(3 * torch.stack([s[0, 2], s[1, 2]])).mean()
    expected = softplus(-3 * s[0, 1]) + negatives
    torch.testing.assert_close(of(method, x, torch.tensor([0, 0, 1])), expected)


def test_it_equals_the_form_on_distances():
    """softplus(α(D - λ)) + softplus(β'(λ - D)) with D = 1 - S, λ = 1 - β, β' = αC."""
    x, labels = batch(2)
    unit = normalize(x, dim=1)
    d = 1 - unit @ unit.T
    same = (labels[:, None] == labels).fill_diagonal_(False)
    different = labels[:, None] != labels
    expected = softplus(2 * (d - 0.7))[same].mean() + softplus(10 * (0.7 - d))[different].mean()
    method = BinomialDeviance(threshold=0.3, negative_cost=5.0)
    torch.testing.assert_close(of(method, x, labels), expected)


def test_large_scales_stay_finite_in_float32():
    x, labels = batch(3)
    x = x.float().requires_grad_()
    of(BinomialDeviance(alpha=100.0), x, labels).backward()
    assert x.grad.isfinite().all()
