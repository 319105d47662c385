"""The criterion of classification: a chain of logit adjustments and a product of weights around
cross-entropy."""

import pytest
import torch
import torch.nn.functional as F

from foundation.randomness import generator
from recipes.contract import Declaration, Method
from recipes.step import Input
from recipes.step.criterion import Criterion, one_hot
from tests.support.harness import step_with, train

Z = torch.randn(6, 4, generator=generator("criterion"), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, -1, 2])


@pytest.mark.parametrize("target", [Y, one_hot(Y, 4).double()], ids=["index", "dense"])
def test_adjustments_run_in_order_and_weights_multiply(target):
    criterion = Criterion(
        [lambda step, z, t, task, role: 2 * z, lambda step, z, t, task, role: z + torch.arange(4)],
        [
            lambda step, z, t, task, role: z.softmax(1).amax(1),
            lambda *_: None,
            lambda step, z, t, task, role: torch.arange(6.0),
        ],
    )
    seen = 2 * Z + torch.arange(4)
    expected = (
        torch.arange(6.0)
        * seen.softmax(1).amax(1)
        * F.cross_entropy(seen, Y, reduction="none", ignore_index=-1)
    )
    torch.testing.assert_close(criterion(None, Z, target, "label", "labeled"), expected)
    torch.testing.assert_close(criterion.adjust(None, Z, None, "label", "pseudo"), seen)


@pytest.mark.parametrize(
    "target", [Y, one_hot(Y, 4).double(), Z.softmax(1).flip(0)], ids=["index", "one-hot", "mixed"]
)
def test_a_cost_and_weights_by_class_are_taken_at_the_true_class(target):
    table, weights, samples = Z.square(), torch.arange(1.0, 5.0).expand(6, 4), torch.arange(6.0)
    criterion = Criterion(
        [lambda step, z, t, task, role: 3 * z],
        [lambda *_: weights, lambda *_: samples],
        [lambda *_: None, lambda step, z, task, role: (z / 3).square()],
    )
    dense = one_hot(target, 4).double()
    expected = samples * (dense * weights * table).sum(1)
    torch.testing.assert_close(criterion(None, Z, target, "label", "labeled"), expected)


def test_without_methods_it_is_cross_entropy():
    expected = F.cross_entropy(Z, Y, reduction="none", ignore_index=-1)
    torch.testing.assert_close(Criterion()(None, Z, Y, "label", "pseudo"), expected)


def test_the_target_of_an_input_is_taken_where_none_is_given():
    seen = []

    def note(step, z, target, task, role):
        seen.append(target)
        return z

    at = step_with({"labeled": Z[:5], "other": Z[:5]}, targets=Y[:5], adjust=note)
    at.classify("labeled", "label", "labeled")
    at.classify("other", "label", "pseudo", target=torch.zeros(5).long())
    at.loss_logits("other", "label", "pseudo")
    assert torch.equal(seen[0], Y[:5]) and not seen[1].any() and seen[2] is None
    with pytest.raises(ValueError, match="'other' has no targets for task 'label'"):
        at.classify("other", "label", "labeled")


class Half(Method):
    declaration = Declaration()

    def sample_weights(self, step, logits, target, task, role, recipe):
        return torch.full((len(logits),), 0.5)


def test_weights_of_methods_reach_the_loss_and_are_not_normalised_away():
    plain, halved = train(steps=1), train({"half": Half()}, steps=1)
    assert halved.losses[0] == pytest.approx(plain.losses[0] / 2, rel=1e-6)


class Guess(Method):
    """Asks for an output before the step's forward."""

    declaration = Declaration(views={"unlabeled": ("weak",)})

    def __init__(self):
        self.seen = []

    def prepare(self, step, recipe):
        before = recipe.network.body[1].running_mean.clone()
        embedded = step.embedding("unlabeled", "weak")
        output = recipe.extra_forward(embedded)
        assert torch.equal(before, recipe.network.body[1].running_mean)
        step.add(Input("guessed", embedded))
        self.guess = output.logits["label"]

    def terms(self, step, recipe):
        self.seen.append(self.guess.grad_fn is not None)


def test_a_forward_apart_has_a_graph_and_leaves_running_statistics_alone():
    method = Guess()
    train({"guess": method}, steps=2, norm=True)
    assert method.seen == [True, True]
