import pytest
import torch

from methods.metric_learning.contrastive import Contrastive
from tests.support.harness import train
from tests.support.metric_batches import X, batch, of


def test_equal_embeddings_cost_the_negatives_margin_alone():
    x, labels = torch.ones(6, 2, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    assert float(of(Contrastive(negative_margin=0.8), x, labels)) == pytest.approx(0.8**2 / 2)


def test_one_class_costs_half_its_mean_squared_distance():
    squared = (X[:, None] - X).square().sum(2)
    expected = squared.sum() / 30 / 2
    torch.testing.assert_close(of(Contrastive(), X, torch.zeros(6, dtype=torch.long)), expected)


def test_on_cosines_it_is_the_loss_of_the_cross_batch_memory():
    """Σ_P (1 - S) + Σ_N [S - 0.5]+ over the batch."""
    x, labels = batch(3)
    s = torch.nn.functional.normalize(x, dim=1)
    s = s @ s.T
    same = (labels[:, None] == labels) & ~torch.eye(len(x), dtype=torch.bool)
    different = labels[:, None] != labels
    expected = ((1 - s)[same].sum() + (s - 0.5).clamp_min(0)[different].sum()) / len(x)
    method = Contrastive(0.0, 0.5, power=1, distance="cosine", reduction="mean_batch")
    torch.testing.assert_close(of(method, x, labels), expected)


def test_active_is_the_share_of_negatives_within_the_margin():
    x, labels = batch(3)
    distance = torch.cdist(x, x)[labels[:, None] != labels]
    found = Contrastive().loss(x, labels, "label", None)[1]["active"]
    torch.testing.assert_close(found.double(), (distance < 1).double().mean(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_separates_the_classes(kind):
    result = train({"contrastive": Contrastive(dim=8, weight=3.0)}, kind=kind, steps=40, lr=0.1)
    gap = [row["train/positive_cosine"] - row["train/negative_cosine"] for row in result.history]
    assert gap[-1] > gap[0] + 0.1
