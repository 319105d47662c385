import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.equalization_loss import EqualizationLoss, equalized_cost
from methods.long_tail.focal_loss import FocalLoss
from methods.regularization.sam import SAM
from recipes.step.criterion import of_target, one_hot
from tests.support.harness import Setup, build, train
from tests.support.worked_long_tail import LOGITS, TARGETS, criterion_of, losses

SOURCE = generator("equalization loss")
Z, Y = 2 * torch.randn(40, 6, generator=SOURCE), torch.randint(6, (40,), generator=SOURCE)
N = torch.tensor([500, 200, 100, 30, 10, 2])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gamma": 1.0}, (0.0, 0.31326169)),
        ({"gamma": 0.9, "drop": "fixed"}, (0.04909628, 0.31924465)),
        ({"gamma": 1.0, "drop": "fixed"}, (0.0, 0.31326169)),
    ],
)
def test_worked_example(settings, expected):
    found = losses(EqualizationLoss(threshold=0.15, **settings))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings", [{"gamma": 0.0}, {"threshold": 0.0}, {"gamma": 0.0, "drop": "fixed"}]
)
def test_without_dropping_it_is_cross_entropy(settings):
    found = losses(EqualizationLoss(**{"threshold": 0.5} | settings), logits=Z, target=Y, counts=N)
    torch.testing.assert_close(found, F.cross_entropy(Z, Y, reduction="none"), atol=1e-5, rtol=1e-5)


def test_the_table_is_the_double_loop_of_the_formula():
    drop = torch.rand(40, 6, generator=SOURCE) * (torch.rand(40, 6, generator=SOURCE) < 0.6)
    z, d = Z.double().numpy(), drop.double().numpy()
    expected = np.zeros((40, 6))
    for i in range(40):
        for y in range(6):
            others = sum((1 - d[i, k]) * math.exp(z[i, k]) for k in range(6) if k != y)
            expected[i, y] = math.log(math.exp(z[i, y]) + others) - z[i, y]
    torch.testing.assert_close(
        equalized_cost(Z, drop).double().numpy(), expected, atol=1e-5, rtol=1e-5
    )


def test_large_logits_and_dropped_negatives_give_finite_gradients():
    z = torch.tensor([[200.0, -200, 0], [0.0, 150, -150]], requires_grad=True)
    found = of_target(equalized_cost(z, torch.tensor([0.0, 1.0, 1.0])), torch.tensor([1, 2]))
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.tensor([400.0, 150.0]))
    assert torch.isfinite(z.grad).all()
    every = equalized_cost(z.detach(), torch.ones(3))
    assert every.abs().max() == 0


def test_a_mixed_target_is_the_mixture_of_its_classes():
    method, other = EqualizationLoss(threshold=0.15), (Y + 1) % 6
    mixed = 0.3 * one_hot(Y, 6) + 0.7 * one_hot(other, 6)
    a, b, both = (losses(method, logits=Z, target=t, counts=N) for t in (Y, other, mixed))
    torch.testing.assert_close(both, 0.3 * a + 0.7 * b, atol=1e-5, rtol=1e-5)


def test_rare_negatives_are_dropped_with_probability_gamma_and_by_sample():
    method = EqualizationLoss(gamma=0.7, threshold=0.15)
    step = criterion_of(method, counts=N).step
    drawn = method.dropped(step, torch.zeros(4000, 6), "label")
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.015)
    assert len(drawn.unique(dim=0)) == 64
    assert torch.equal(drawn, method.dropped(step, torch.zeros(4000, 6), "label"))
    whole = EqualizationLoss(granularity="batch")
    step = criterion_of(whole, counts=N).step
    assert whole.dropped(step, torch.zeros(9, 6), "label").numel() == 1


def test_sigmoid_form_leaves_rare_negatives_out():
    found = losses(EqualizationLoss(threshold=0.15, mode="sigmoid"))
    s = torch.sigmoid(LOGITS)
    # classes 1 and 2 are rare: they count as positives alone
    expected = torch.stack([-s[0, 0].log(), -s[1, 2].log() - (1 - s[1, 0]).log()])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_pseudo_labels_keep_cross_entropy(mode):
    found = criterion_of(EqualizationLoss(threshold=0.15, mode=mode))(
        LOGITS, TARGETS, "label", "pseudo"
    )
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, TARGETS, reduction="none"))


def test_a_replayed_step_draws_the_same():
    class Recorded(EqualizationLoss):
        def dropped(self, step, logits, task):
            self.seen = [*getattr(self, "seen", []), super().dropped(step, logits, task)]
            return self.seen[-1]

    method = Recorded(gamma=0.5, threshold=0.5)
    train({"equalization_loss": method, "sam": SAM()}, steps=2, tasks={"label": 4})
    first, again, second, _ = method.seen
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_what_it_cannot_meet():
    for other in (
        {"focal_loss": FocalLoss(mode="sigmoid")},
        {"balanced_softmax": BalancedSoftmax()},
    ):
        with pytest.raises(UserError, match="both own"):
            build({"equalization_loss": EqualizationLoss(), **other}, Setup())
    build({"equalization_loss": EqualizationLoss(), "focal_loss": FocalLoss()}, Setup())
