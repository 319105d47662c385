"""The optimum of a linear probe, normalised mutual information and label propagation against
scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.semi_supervised import LabelSpreading

from methods.peft.linear_probe import LinearProbe
from methods.semi_supervised.propagation import (
    affinity,
    neighbors_of_all,
    normalized,
    seeds,
    similarities,
    spread,
)
from recipes.services.clustering import normalized_mutual_information
from tests.support.small_networks import network, operate


def test_the_optimum_of_a_linear_probe_is_that_of_logistic_regression():
    """λ matched: mean cross-entropy + (λ/2)‖W‖² here, ½‖W‖² + C Σ cross-entropy there, so C = 1/(λ
    N)."""
    made = operate(LinearProbe(), network("digits_cnn", {"label": 3}), "linear_probe").eval()
    x, y = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    with torch.no_grad():
        found = 20 * made.features(made.embed(x))
    head, decay = made.heads["label"], 0.01
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=500, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(head(found), y) + decay / 2 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    oracle = LogisticRegression(C=1 / (decay * 60), tol=1e-8, max_iter=5000).fit(
        found.double().numpy(), y.numpy()
    )
    np.testing.assert_allclose(head.weight.detach().numpy(), oracle.coef_, atol=2e-3)
    # and our loss has no gradient where theirs ends; biases are equal up to a common shift
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(oracle.coef_))
        head.bias.copy_(torch.from_numpy(oracle.intercept_))
    closure()
    for parameter in head.parameters():
        assert float(parameter.grad.abs().max()) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_normalised_mutual_information(seed):
    source = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(n, (200,), generator=source) for n in (5, 8))
    b[:100] = a[:100]
    assert float(normalized_mutual_information(a, b)) == pytest.approx(
        normalized_mutual_info_score(a, b)
    )


@pytest.mark.parametrize("alpha", [0.2, 0.9, 0.99])
def test_label_propagation(alpha):
    """LabelSpreading on the same affinity; it iterates where we solve."""
    x = np.random.default_rng(0).normal(size=(80, 4))
    x[::2] += 2.0
    labels = np.full(80, -1)
    labels[:4] = (0, 1, 0, 1)
    unit = F.normalize(torch.from_numpy(x).float(), dim=1)
    neighbors = neighbors_of_all(unit, 8)
    w = affinity(similarities(unit, neighbors), neighbors, 3.0)
    oracle = LabelSpreading(
        kernel=lambda a, b: w.to_dense().numpy(), alpha=alpha, max_iter=100_000, tol=1e-14
    ).fit(x, labels)
    y = seeds(torch.from_numpy(labels), 2, balanced=False)
    z = spread(normalized(w), y, alpha, 1000, 1e-14)
    np.testing.assert_allclose(z / z.sum(1, keepdim=True), oracle.label_distributions_, atol=1e-8)
