import math

import pytest
import torch

from methods.metric_learning.angular import Angular, angular, whole_classes
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


@pytest.mark.parametrize("limit", [1, 60, 10**6], ids=["a class each", "some classes", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_give_value_and_gradient_of_the_sum_over_triplets(seed, limit, monkeypatch):
    """Whatever a block holds; samples without label and classes of one sample take no part."""
    monkeypatch.setattr("methods.metric_learning.angular.BLOCK", {"cpu": limit})
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 5, generator=source, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (20,), generator=source)
    found = angular(torch.cat([x, x[:3] + 1]), torch.cat([labels, labels.new_full((3,), -1)]), 1.3)
    expected = by_triplets(x, labels, 1.3)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, x)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_blocks_are_whole_classes():
    labels = torch.tensor([5, 1, -1, 5, 1, 2, 5, 3, 3])
    rows = [block.tolist() for block in whole_classes(labels, most=4)]
    assert rows == [[1, 4, 7, 8], [0, 3, 6]]
    assert [block.tolist() for block in whole_classes(labels, most=1)] == [
        [1, 4],
        [7, 8],
        [0, 3, 6],
    ]
    assert whole_classes(torch.tensor([0, 1, -1]), most=4) == []


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
