import pytest
import torch

from methods.metric_learning.quadruplet import Quadruplet, active_partners, other_pairs
from methods.metric_learning.triplet import Triplet
from tests.support.comparison import same
from tests.support.metric_batches import X, Y, batch, of


def terms(d: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """One by one, over ordered pairs of both kinds."""
    n = range(len(labels))
    found = [
        (d[i, j] - d[m, k] + margin).clamp_min(0)
        for i in n
        for j in n
        for m in n
        for k in n
        if i != j
        and labels[i] == labels[j]
        and len({int(labels[s]) for s in (i, k, m)}) == 3
        and min(labels[i], labels[k], labels[m]) >= 0
    ]
    return torch.stack(found)


@pytest.mark.parametrize("reduction", ["mean_all", "mean_nonzero"])
@pytest.mark.parametrize("seed", range(2))
def test_one_sort_is_the_mean_over_all_quadruplets(seed, reduction):
    x, labels = batch(seed, rows=10, classes=4)
    labels[2] = -1

    def distances(z: torch.Tensor) -> torch.Tensor:
        return (z[:, None] - z).square().sum(2)

    def by_loops(z: torch.Tensor) -> torch.Tensor:
        values = terms(distances(z), labels, 0.5)
        return values.sum() / (len(values) if reduction == "mean_all" else (values > 0).sum())

    same(lambda z: other_pairs(distances(z), labels, 0.5, reduction), by_loops, x)


def test_the_fixture_has_thirty_six_of_them():
    squared = (X[:, None] - X).square().sum(2)
    assert int(active_partners(squared, Y, 0.5).quadruplets) == 36
    assert float(other_pairs(squared, Y, 0.5)) == pytest.approx(0.1779483259, abs=1e-9)


def test_a_margin_that_nothing_reaches_leaves_the_triplets():
    squared = (X[:, None] - X).square().sum(2)
    assert other_pairs(squared, Y, -100.0) == 0
    found = of(Quadruplet(), X, Y) - other_pairs(squared, Y, 0.5)
    torch.testing.assert_close(found, of(Triplet(1.0, reduction="mean_all"), X, Y))


def test_margins_of_the_batch_are_constants_of_the_gradient():
    x, labels = batch(3)
    gap = float(Quadruplet("batch").gap((x[:, None] - x).square().sum(2), labels))
    fixed = Quadruplet("fixed", gap, 0.5 * gap)
    same(lambda z: of(Quadruplet("batch"), z, labels), lambda z: of(fixed, z, labels), x)


def test_two_classes_have_the_first_term_alone():
    x, labels = batch(4, classes=2)
    torch.testing.assert_close(
        of(Quadruplet(), x, labels), of(Triplet(1.0, reduction="mean_all"), x, labels)
    )
