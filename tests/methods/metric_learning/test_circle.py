import pytest
import torch
from torch.nn.functional import normalize, softplus

from methods.metric_learning.circle import Circle
from tests.support.metric_batches import X, Y, batch, of


def test_weights_are_constants_of_the_gradient():
    """The norm of the gradient by the fixture, which is normalised inside."""
    x = X.clone().requires_grad_()
    of(Circle(1.0, 0.25, scope="batch"), x, Y).backward()
    assert float(x.grad.norm()) == pytest.approx(0.5364635131, abs=1e-9)


def test_without_weights_it_is_a_softmax_over_pairs_with_a_margin():
    x, labels = batch(1)
    s = normalize(x, dim=1)
    s = s @ s.T
    same = (labels[:, None] == labels).fill_diagonal_(False)
    different = labels[:, None] != labels
    pull = torch.where(same, -3.0 * (s - 0.7), -torch.inf).logsumexp(1)
    push = torch.where(different, 3.0 * (s - 0.3), -torch.inf).logsumexp(1)
    expected = softplus(pull + push).mean()
    torch.testing.assert_close(of(Circle(3.0, 0.3, paced=False), x, labels), expected)


def test_reductions_differ_by_anchors_without_a_side_and_without_loss():
    """Two classes of three, opposite to each other, a sample alone: six anchors with both sides."""
    near = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat_interleave(3, 0)
    x = torch.cat([near, torch.tensor([[0.0, 1.0]])])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    x[0] = torch.tensor([0.0, 1.0])
    values = {
        reduction: float(of(Circle(1e5, 0.1, reduction=reduction), x, labels))
        for reduction in ("mean_anchor", "mean_nonzero", "mean_batch")
    }
    assert values["mean_batch"] == pytest.approx(values["mean_anchor"] * 6 / 7)
    assert values["mean_nonzero"] == pytest.approx(values["mean_anchor"] * 6 / 3)
