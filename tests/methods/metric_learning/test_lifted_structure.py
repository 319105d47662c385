import pytest
import torch

from methods.metric_learning.lifted_structure import LiftedStructure
from tests.support.harness import train
from tests.support.metric_batches import X, Y, batch, of


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("smooth", 3.7518087759), ("hard", 1.1128838006), ("generalized", 2.5213244802)],
)
def test_worked_example(variant, expected):
    assert float(of(LiftedStructure(variant=variant), X, Y)) == pytest.approx(expected, abs=1e-9)


def test_moving_and_turning_all_embeddings_changes_nothing():
    x, labels = batch(3)
    turn = torch.linalg.qr(batch(4, rows=6)[0]).Q
    moved = x @ turn + 3.0
    torch.testing.assert_close(
        of(LiftedStructure(), moved, labels), of(LiftedStructure(), x, labels)
    )


def by_the_formula(x, labels, variant):
    """Over pairs in loops, for autograd."""
    d = torch.cdist(x, x)
    rows = range(len(x))
    negatives = [[k for k in rows if labels[k] != labels[i]] for i in rows]
    positives = [[k for k in rows if labels[k] == labels[i] and k != i] for i in rows]
    far = [1.0 - d[i, negatives[i]] for i in rows]
    total = x.new_zeros(())
    if variant == "generalized":
        for i in rows:
            if positives[i]:
                near = d[i, positives[i]].logsumexp(0)
                total = total + (near + far[i].logsumexp(0)).relu()
        return total / sum(bool(p) for p in positives)
    for i in rows:
        for j in positives[i]:
            both = torch.cat([far[i], far[j]])
            joined = both.amax() if variant == "hard" else both.logsumexp(0)
            total = total + (joined + d[i, j]).relu().square() / 2
    return total / sum(map(len, positives))


@pytest.mark.parametrize("variant", ["smooth", "hard", "generalized"])
def test_gradients_are_those_of_the_formula(variant):
    x, labels = batch(7, rows=13, classes=4)
    labels[-1] = 9  # an anchor without positives
    x = (0.4 * x).requires_grad_()
    expected = by_the_formula(x, labels, variant)
    found = of(LiftedStructure(variant=variant), x, labels)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(expected, x)
    (found_slope,) = torch.autograd.grad(found, x)
    torch.testing.assert_close(found_slope, slope)
    assert (slope[:-1] != 0).any(1).all()


def test_the_smooth_form_is_above_the_hard_one():
    x, labels = batch(5)
    hard, smooth = (of(LiftedStructure(variant=v), x, labels) for v in ("hard", "smooth"))
    assert hard < smooth


@pytest.mark.parametrize("variant", ["smooth", "hard", "generalized"])
def test_batches_without_positives_or_negatives_cost_nothing(variant):
    x = torch.randn(4, 3, requires_grad=True)
    for labels in ([0, 1, 2, 3], [0, 0, 0, 0], [-1, -1, -1, -1]):
        value = of(LiftedStructure(variant=variant), x, torch.tensor(labels))
        value.backward()
        assert value == 0 and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_training_separates_the_classes(kind):
    result = train({"lifted_structure": LiftedStructure(dim=8)}, kind=kind, steps=40, lr=0.05)
    gap = [row["train/positive_cosine"] - row["train/negative_cosine"] for row in result.history]
    assert gap[-1] > gap[0] + 0.1
