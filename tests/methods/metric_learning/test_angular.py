import math

import pytest
import torch

from methods.metric_learning.angular import Angular, angular
from tests.support.metric_batches import X, Y, batch, of


def by_triplets(x: torch.Tensor, labels: torch.Tensor, t: float) -> torch.Tensor:
    """From the exponent of each triplet by itself."""
    unit = torch.nn.functional.normalize(x, dim=1)
    terms = []
    for a in range(len(x)):
        for p in range(len(x)):
            if p == a or labels[p] != labels[a]:
                continue
            n = unit[labels != labels[a]]
            f = 4 * t * (unit[a] + unit[p]) @ n.T - 2 * (1 + t) * unit[a] @ unit[p]
            terms.append(torch.cat([f, f.new_zeros(1)]).logsumexp(0))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("seed", range(3))
def test_one_product_is_the_sum_over_triplets(seed):
    x, labels = batch(seed)
    torch.testing.assert_close(angular(x, labels, 1.0), by_triplets(x, labels, 1.0))


def test_the_exponent_is_the_hinge_of_the_paper_but_for_a_constant():
    a, p, n = torch.nn.functional.normalize(batch(3, rows=3)[0], dim=1)
    t = math.tan(math.radians(40)) ** 2
    hinge = (a - p).square().sum() - 4 * t * (n - (a + p) / 2).square().sum()
    exponent = 4 * t * (a + p) @ n - 2 * (1 + t) * a @ p
    torch.testing.assert_close(hinge, exponent + 2 - 6 * t)


def test_an_angle_near_0_leaves_the_pull_between_positives():
    """f → -2S_ap, so that a pair costs log(1 + |N| e^{-2S})."""
    expected = [
        math.log1p(int((Y[a] != Y).sum()) * math.exp(-2 * float(X[a] @ X[p])))
        for a in range(6)
        for p in range(6)
        if a != p and Y[a] == Y[p]
    ]
    found = float(of(Angular(alpha=1e-4), X, Y))
    assert found == pytest.approx(sum(expected) / len(expected), abs=1e-8)


def test_the_largest_angle_is_finite_in_float32():
    x = torch.cat([torch.ones(4, 3), -torch.ones(4, 3)]).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    value = of(Angular(alpha=60.0), x, labels)
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
