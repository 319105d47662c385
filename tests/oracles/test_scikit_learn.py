"""The optimum of a linear probe and normalised mutual information against scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score

from methods.peft.linear_probe import LinearProbe
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
