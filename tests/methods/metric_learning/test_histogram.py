import pytest
import torch

from methods.metric_learning.histogram import Histogram, sums_at_nodes
from tests.support.metric_batches import batch, of


def test_a_pair_is_shared_between_the_nodes_around_it():
    cosine = torch.tensor([[-1.0, -0.75, 0.0, 1.0, 1.0000001, 0.5]])
    mask = torch.tensor([[True, True, True, True, True, False]])
    expected = torch.tensor([[1.5, 0.5, 1.0, 0.0, 2.0]])
    torch.testing.assert_close(sums_at_nodes(cosine, mask, 5), expected, atol=1e-6, rtol=0)


def test_many_nodes_give_the_probability_itself():
    """That a random positive is less similar than a random negative."""
    x, labels = batch(1)
    unit = torch.nn.functional.normalize(x, dim=1)
    cosine = unit @ unit.T
    same = labels[:, None] == labels
    positives = cosine[same & ~torch.eye(len(x), dtype=torch.bool)]
    expected = (positives[:, None] < cosine[~same]).double().mean()
    found = of(Histogram(nodes=200_001), x, labels)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_scale_does_not_matter():
    x, labels = batch(1)
    torch.testing.assert_close(of(Histogram(), 7 * x, labels), of(Histogram(), x, labels))


def test_separated_classes_cost_nothing_and_reversed_ones_1():
    x = torch.eye(3, dtype=torch.float64).repeat_interleave(2, 0)
    assert of(Histogram(), x, torch.tensor([0, 0, 1, 1, 2, 2])) == 0
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # half of the negatives are as far apart as the positives, which counts whole
    assert float(of(Histogram(), opposite, labels)) == pytest.approx(1.0)
