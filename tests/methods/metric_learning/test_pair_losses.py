"""What all losses on pairs of a batch have in common, and the worked numbers of the fixture."""

import pytest
import torch

from methods.metric_learning.angular import Angular
from methods.metric_learning.batch_hard_triplet import BatchHardTriplet
from methods.metric_learning.binomial_deviance import BinomialDeviance
from methods.metric_learning.circle import Circle
from methods.metric_learning.clustering import Clustering
from methods.metric_learning.histogram import Histogram
from methods.metric_learning.improved_triplet import ImprovedTriplet
from methods.metric_learning.metric import MetricLoss
from methods.metric_learning.npair import NPair
from methods.metric_learning.quadruplet import Quadruplet
from methods.metric_learning.ranked_list import RankedList
from methods.metric_learning.soft_nearest_neighbor import SoftNearestNeighbor
from tests.support.harness import train
from tests.support.metric_batches import X, Y, batch, of
from tests.support.metric_losses import DETACHED, LOSSES, WHOLE, WORKED

ALL = LOSSES | WHOLE | DETACHED


@pytest.mark.parametrize(("kind", "settings", "expected"), WORKED, ids=str)
def test_worked_numbers(kind, settings, expected):
    assert float(of(kind(**settings), X, Y)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_missing_labels_are_as_if_the_samples_were_not_there(name):
    x, labels = batch(2)
    labels[::3] = -1
    kept = labels >= 0
    found, expected = of(ALL[name], x, labels), of(ALL[name], x[kept], labels[kept])
    assert found != 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [name for name in ALL if "npair" not in name])
def test_the_order_of_samples_does_not_matter(name):
    x, labels = batch(4)
    order = torch.randperm(len(x))
    torch.testing.assert_close(of(ALL[name], x[order], labels[order]), of(ALL[name], x, labels))


@pytest.mark.parametrize("name", ALL)
def test_batches_without_labels_cost_nothing_and_have_a_gradient(name):
    x = torch.randn(4, 3, requires_grad=True)
    value = of(ALL[name], x, torch.full((4,), -1))
    value.backward()
    assert value == 0 and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0]], ids=["singletons", "one class"])
def test_batches_without_positives_or_negatives_are_finite(name, labels):
    x = torch.randn(4, 3, requires_grad=True)
    of(ALL[name], x, torch.tensor(labels)).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_duplicates_have_a_finite_gradient(name):
    x = torch.ones(6, 2, requires_grad=True)
    of(ALL[name], x, Y).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES | WHOLE)
def test_gradients_are_those_of_differences(name):
    """Along a random direction, in float64."""
    x, labels = batch(6, rows=12, classes=4)
    labels[3] = -1
    x = x / 2
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    leaf = x.clone().requires_grad_()
    of(ALL[name], leaf, labels).backward()
    h = 1e-6
    ahead, behind = (
        of(ALL[name], x + h * direction, labels),
        of(ALL[name], x - h * direction, labels),
    )
    slope = (leaf.grad * direction).sum()
    assert slope != 0
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-7)


# at rates at which forty small steps show it
TRAINED: dict[str, MetricLoss] = {
    "binomial_deviance": BinomialDeviance(negative_cost=2.0, dim=8),
    "circle": Circle(gamma=16.0, dim=8),
    "npair": NPair(dim=8),
    "batch_hard_triplet": BatchHardTriplet(dim=8),
    "soft_nearest_neighbor": SoftNearestNeighbor(dim=8),
    "angular": Angular(dim=8),
    "improved_triplet": ImprovedTriplet(dim=8, weight=3.0),
    "ranked_list": RankedList(dim=8, weight=3.0),
    "histogram": Histogram(nodes=21, dim=8, weight=3.0),
    "quadruplet": Quadruplet(dim=8, weight=3.0),
    "clustering": Clustering(sweeps=1, dim=8),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_separates_the_classes(name):
    result = train({name: TRAINED[name]}, steps=40, lr=0.1, labeled=12)
    gap = [row["train/positive_cosine"] - row["train/negative_cosine"] for row in result.history]
    assert gap[-1] > gap[0] + 0.1
