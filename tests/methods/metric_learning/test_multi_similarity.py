import pytest
import torch

from methods.metric_learning.blocks import Blocks
from methods.metric_learning.measures import Cosine
from methods.metric_learning.members import Sides
from methods.metric_learning.multi_similarity import MultiSimilarity, multi_similarity
from tests.support.harness import train, values_differ
from tests.support.metric_batches import X, Y, batch, of


@pytest.mark.parametrize(("epsilon", "expected"), [(0.1, 0.6226218692), (None, 0.6598618290)])
def test_worked_example(epsilon, expected):
    assert float(of(MultiSimilarity(epsilon=epsilon), X, Y)) == pytest.approx(expected, abs=1e-9)


def test_gradients_are_the_weights_of_the_survey():
    """∂L_i/∂S_ij = 1 / (e^{β(λ-S_ij)} + Σ_k e^{β(S_ik-S_ij)}) for negatives, without mining."""
    x, labels = batch(1)
    unit = torch.nn.functional.normalize(x, dim=1)
    block = Blocks(Cosine(), x, None, Sides.of(labels)).block(slice(0, 1))
    loss = multi_similarity(block, alpha=2.0, beta=10.0, base=0.5, epsilon=None)
    negatives, row = (labels != labels[0]).nonzero().flatten(), unit[0] @ unit.T
    j = int(negatives[0])
    weight = 1 / (torch.exp(10 * (0.5 - row[j])) + torch.exp(10 * (row[negatives] - row[j])).sum())
    torch.testing.assert_close(loss.grad_negative[0, j], weight)


def test_missing_labels_are_as_if_the_samples_were_not_there():
    x, labels = batch(2)
    labels[::3] = -1
    kept = labels >= 0
    torch.testing.assert_close(
        of(MultiSimilarity(), x, labels), of(MultiSimilarity(), x[kept], labels[kept])
    )


def test_mining_that_leaves_nothing_costs_nothing_whatever_the_scale():
    """The similarity of what mining drops may be far too large for an exponential."""
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1]], requires_grad=True)
    value = of(MultiSimilarity(beta=1e4, epsilon=-0.5), x, torch.tensor([0, 0, 1]))
    value.backward()
    assert value == 0 and torch.equal(x.grad, torch.zeros_like(x))


def test_a_batch_without_pairs_costs_nothing_and_has_a_gradient():
    x = torch.randn(4, 3, requires_grad=True)
    value = of(MultiSimilarity(), x, torch.full((4,), -1))
    value.backward()
    assert value == 0 and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_separates_the_classes(kind):
    result = train({"multi_similarity": MultiSimilarity(dim=8)}, kind=kind, steps=40, lr=0.05)
    first, last = result.history[0], result.history[-1]
    gap = [row["train/positive_cosine"] - row["train/negative_cosine"] for row in (first, last)]
    assert gap[1] > gap[0] + 0.1
    assert result.recipe.network.calls == 40, (
        "the clean view and the supervised one share a forward"
    )


def test_it_changes_what_is_learnt():
    plain, metric = train(steps=3), train({"multi_similarity": MultiSimilarity()}, steps=3)
    assert "body.0.weight" in values_differ(plain.parameters, metric.parameters)
