import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from methods.metric_learning.soft_nearest_neighbor import (
    SoftNearestNeighbor,
    mean_soft_nearest_neighbor,
)
from tests.support.harness import train
from tests.support.metric_batches import X, batch, of


def test_equal_embeddings_cost_the_share_of_other_classes():
    labels = torch.arange(4).repeat_interleave(3)
    value = of(SoftNearestNeighbor(), torch.ones(12, 2), labels)
    assert float(value) == pytest.approx(-math.log(2 / 11), abs=1e-6)


def test_with_two_samples_a_class_it_is_the_softmax_of_the_pair():
    x = normalize(batch(1, rows=8)[0], dim=1)
    labels = torch.arange(4).repeat(2)
    logits = -(x[:, None] - x).square().sum(2) / 0.5
    logits.fill_diagonal_(-torch.inf)
    partner = torch.arange(8).roll(4)
    expected = cross_entropy(logits, partner)
    torch.testing.assert_close(of(SoftNearestNeighbor(), x, labels), expected)


def test_a_low_temperature_looks_at_the_nearest_neighbor_alone():
    """Of the first five at 0, 20, 70, 50 and 110 degrees: a loss where the nearest is of another
    class."""
    labels = torch.tensor([0, 0, 1, 1, 2])
    value = mean_soft_nearest_neighbor(X[:5], labels, 1e-3)
    assert float(value) == pytest.approx(0.0, abs=1e-6)
    mixed = torch.tensor([0, 1, 0, 1, 2])
    assert float(mean_soft_nearest_neighbor(X[:5], mixed, 1e-3)) > 100


def test_the_temperature_gets_its_own_derivative():
    x, labels = batch(2)
    temperature = torch.tensor(0.7, dtype=x.dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(mean_soft_nearest_neighbor(x, labels, temperature), temperature)
    ahead, behind = (mean_soft_nearest_neighbor(x, labels, 0.7 + h) for h in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=0)


def test_a_learnt_temperature_moves_and_is_logged():
    method = SoftNearestNeighbor(dim=8, learnable=True)
    result = train({"snn": method}, steps=10, lr=0.1)
    shown = [row["train/temperature"] for row in result.history]
    assert shown[0] == pytest.approx(0.5) and shown[-1] != pytest.approx(0.5, abs=1e-3)
