import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.equalization_loss_v2 import (
    AccumulatedGradients,
    EqualizationLossV2,
    gradient_sums,
    gradient_weights,
)
from methods.long_tail.logit_adjustment import LogitAdjustment
from methods.long_tail.sigmoid import binary_costs, summed
from methods.regularization.mixup import Mixup
from methods.regularization.sam import SAM
from recipes.step.criterion import of_target, one_hot
from tests.support.harness import Setup, build, fit, train
from tests.support.worked_long_tail import LOGITS, TARGETS, criterion_of, losses

KEY = "equalization_loss_v2"
SOURCE = generator("equalization loss v2")
Z, Y = 2 * torch.randn(30, 6, generator=SOURCE), torch.randint(6, (30,), generator=SOURCE)
PAPER = (12.0, 0.8, 4.0)


def loss_and_sums(logits, target, sums):
    """The loss of a step, and the sums after it."""
    weights = gradient_weights(*sums, *PAPER)
    positive, negative = binary_costs(logits)
    table = summed(weights[0] * positive, weights[1] * negative)
    more = gradient_sums(logits, target, weights)
    return of_target(table, target).mean(), tuple(a + b for a, b in zip(sums, more, strict=True))


def test_worked_example_of_two_steps():
    first, sums = loss_and_sums(LOGITS, TARGETS, (torch.zeros(3), torch.zeros(3)))
    assert float(first) == pytest.approx(1.81104441, abs=1e-6)
    u, v = gradient_weights(*sums, *PAPER)
    expected = torch.tensor([0.00067376, 0.00006772, 0.00536869])
    torch.testing.assert_close(v, expected, atol=1e-7, rtol=1e-5)
    expected = torch.tensor([4.99730496, 4.99972910, 4.97852522])
    torch.testing.assert_close(u, expected, atol=1e-6, rtol=0)
    second, _ = loss_and_sums(LOGITS, TARGETS, sums)
    assert float(second) == pytest.approx(0.82076340, abs=1e-6)


def test_five_steps_are_those_of_a_plain_loop():
    """The reference rule in NumPy, class by class: weighted gradients are summed after the loss."""
    z, n, c = Z.double().numpy(), 30, 6
    total = {"+": np.zeros(c), "-": np.zeros(c)}
    sums = (torch.zeros(c), torch.zeros(c))
    for step in range(5):
        expected, gain = 0.0, {"+": np.zeros(c), "-": np.zeros(c)}
        for k in range(c):
            r = total["+"][k] / (total["-"][k] + 1e-10)
            f = 1 / (1 + np.exp(-12 * (r - 0.8)))
            u, v = (1 + 4 * (1 - f), f) if step else (1.0, 1.0)
            for i in range(n):
                s = 1 / (1 + np.exp(-z[i, k] * (step + 1) / 3))
                if Y[i] == k:
                    expected -= u * np.log(s)
                    gain["+"][k] += u * abs(s - 1)
                else:
                    expected -= v * np.log(1 - s)
                    gain["-"][k] += v * abs(s)
        total = {sign: total[sign] + gain[sign] for sign in total}
        found, sums = loss_and_sums(Z * (step + 1) / 3, Y, sums)
        assert float(found) == pytest.approx(expected / n, rel=1e-5)
    np.testing.assert_allclose(sums[0].double(), total["+"], rtol=1e-5)
    np.testing.assert_allclose(sums[1].double(), total["-"], rtol=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_sums_are_the_gradients_of_the_loss(mixed):
    """By autograd: the gradient of a logit is that as a negative minus that as a positive."""
    z = Z.clone().requires_grad_()
    weights = (1 + torch.rand(6, generator=SOURCE), torch.rand(6, generator=SOURCE))
    positive, negative = binary_costs(z)
    target = 0.3 * one_hot(Y, 6) + 0.7 * one_hot(Y.flip(0), 6) if mixed else Y
    table = summed(weights[0] * positive, weights[1] * negative)
    of_target(table, target).sum().backward()
    up, down = gradient_sums(Z, target, weights)
    torch.testing.assert_close(z.grad.sum(0), down - up, atol=1e-4, rtol=1e-5)
    assert (up > 0).all() and (down > 0).all()


def test_without_weights_it_is_the_binary_cross_entropy():
    expected = F.binary_cross_entropy_with_logits(Z, one_hot(Y, 6), reduction="none").sum(1)
    first = losses(EqualizationLossV2(), logits=Z, target=Y, counts=torch.ones(6))
    torch.testing.assert_close(first, expected)
    sums = gradient_sums(Z, Y, (torch.ones(6), torch.ones(6)))
    u, v = gradient_weights(*sums, 12.0, -1e6, 0.0)
    assert u.tolist() == v.tolist() == [1] * 6


def test_missing_labels_do_not_count():
    y = Y.clone()
    y[::3] = -1
    weights = (torch.ones(6), torch.ones(6))
    known = gradient_sums(Z[y >= 0], y[y >= 0], weights)
    for found, expected in zip(gradient_sums(Z, y, weights), known, strict=True):
        torch.testing.assert_close(found, expected)


def test_pseudo_labels_keep_cross_entropy():
    found = criterion_of(EqualizationLossV2())(LOGITS, TARGETS, "label", "pseudo")
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, TARGETS, reduction="none"))


@pytest.mark.parametrize("sam", [False, True])
def test_the_sums_in_a_run_are_of_the_batches_before(sam):
    """Step one has weights 1, step two those of step one's sums; a second pass counts nothing."""
    setup = Setup(steps=1)
    methods = {KEY: EqualizationLossV2()} | ({"sam": SAM()} if sam else {})
    recipe = build(methods, setup)
    labels = setup.batches({"labeled"})[0]["labeled"]["targets"]["label"]
    result = fit(recipe, setup)
    sums = recipe.method_modules[KEY]["label"]
    logits = recipe.last_step.logits("labeled", "label")
    ones = (torch.ones(3), torch.ones(3))
    for found, expected in zip(
        (sums.positive, sums.negative), gradient_sums(logits, labels, ones), strict=True
    ):
        torch.testing.assert_close(found, expected)
    binary = F.binary_cross_entropy_with_logits(logits, one_hot(labels, 3), reduction="none")
    assert result.losses[0] == pytest.approx(float(binary.detach().sum(1).mean()), rel=1e-5)


def test_every_micro_batch_updates_the_sums():
    """At a learning rate of 0 two micro-batches of one step are two steps."""

    def sums_of(**settings):
        recipe = train({KEY: EqualizationLossV2()}, lr=0.0, **settings).recipe
        return recipe.method_modules[KEY]["label"].state_dict()

    steps, window, one = sums_of(steps=2), sums_of(steps=1, accumulate=2), sums_of(steps=1)
    for name in ("positive", "negative"):
        torch.testing.assert_close(steps[name], window[name])
        assert (steps[name] > one[name]).any()


def test_a_decay_fades_what_was_before():
    sums = AccumulatedGradients(2)
    for value in (1.0, 2.0, 4.0):
        sums.add(torch.full((2,), value), torch.full((2,), 10 * value), 0.5)
    assert sums.positive.tolist() == [5.25, 5.25] and sums.negative.tolist() == [52.5, 52.5]


def test_mixed_targets_count_in_a_run():
    recipe = train({KEY: EqualizationLossV2(), "mixup": Mixup()}, steps=1, lr=0.0).recipe
    step = recipe.last_step
    target = step.inputs["labeled"].targets["label"]
    expected = gradient_sums(step.logits("labeled", "label"), target, (torch.ones(3),) * 2)
    assert target.ndim == 2
    torch.testing.assert_close(recipe.method_modules[KEY]["label"].positive, expected[0])


def test_heads_start_with_rare_classes():
    recipe = build({KEY: EqualizationLossV2(start=0.02)}, Setup())
    assert torch.sigmoid(recipe.network.heads["label"].bias).tolist() == pytest.approx([0.02] * 3)


def test_what_it_cannot_meet():
    with pytest.raises(UserError, match="both own the correction of the class prior"):
        build({KEY: EqualizationLossV2(), "balanced_softmax": BalancedSoftmax()}, Setup())
    with pytest.raises(
        UserError, match=r"cannot be combined .* independent sigmoids; leave one out"
    ):
        build({KEY: EqualizationLossV2(), "logit_adjustment": LogitAdjustment()}, Setup())
