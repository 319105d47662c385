import math

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import generator
from methods.focal import log_rest
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.focal_loss import FocalLoss, sigmoid_cost
from methods.long_tail.logit_adjustment import adjusted
from recipes.services.statistics import ClassStatistics
from recipes.step.criterion import of_target, one_hot
from tests.support.harness import Setup, build, train
from tests.support.worked_long_tail import COUNTS, LOGITS, TARGETS, criterion_of, losses

SOURCE = generator("focal loss")
Z, Y = 3 * torch.randn(64, 7, generator=SOURCE), torch.randint(7, (64,), generator=SOURCE)
EQUAL = torch.ones(7)


def test_worked_example():
    found = losses(FocalLoss())
    torch.testing.assert_close(found, torch.tensor([0.04567780, 0.03578048]), atol=1e-7, rtol=0)
    assert float(found.mean()) == pytest.approx(0.04072914, abs=1e-7)
    assert float(losses(FocalLoss(mode="sigmoid")).mean()) == pytest.approx(0.64186558, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_softmax_form_is_the_formula_in_double_precision(gamma):
    p = torch.softmax(Z.double(), 1).gather(1, Y[:, None]).squeeze(1)
    found = losses(FocalLoss(gamma), logits=Z, target=Y, counts=EQUAL)
    torch.testing.assert_close(found.double(), -((1 - p) ** gamma) * p.log(), atol=2e-6, rtol=1e-5)


def test_gamma_zero_is_the_plain_loss_of_either_mode():
    given = {"logits": Z, "target": Y, "counts": EQUAL}
    softmax, sigmoid = (losses(FocalLoss(0.0, mode), **given) for mode in ("softmax", "sigmoid"))
    torch.testing.assert_close(softmax, F.cross_entropy(Z, Y, reduction="none"))
    binary = F.binary_cross_entropy_with_logits(Z, one_hot(Y, 7), reduction="none").sum(1)
    torch.testing.assert_close(sigmoid, binary, atol=1e-5, rtol=1e-5)


def test_sigmoid_form_does_not_overflow():
    z = torch.tensor([[-100.0, 0.0, 0.0]])
    expected = 100 + 2 * 0.25 * math.log(2)
    assert float(of_target(sigmoid_cost(z, 2.0), torch.tensor([0]))) == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_gradients_stay_finite_where_the_model_is_certain(gamma):
    z = torch.tensor([[60.0, 0, 0], [-60.0, 0, 0], [0.0, 0, 0]], requires_grad=True)
    losses(FocalLoss(gamma), logits=z, target=torch.tensor([0, 0, 0])).sum().backward()
    assert torch.isfinite(z.grad).all() and z.grad[1].abs().sum() > 0.5
    rest = log_rest(z.detach())
    assert float(rest[0, 0]) == pytest.approx(math.log(2) - 60, abs=1e-4)


def test_gradient_equals_that_of_the_formula():
    z = Z.double().requires_grad_()
    p = torch.softmax(z, 1).gather(1, Y[:, None]).squeeze(1)
    (-((1 - p) ** 2) * p.log()).sum().backward()
    ours = Z.clone().requires_grad_()
    losses(FocalLoss(), logits=ours, target=Y, counts=EQUAL).sum().backward()
    torch.testing.assert_close(ours.grad.double(), z.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_a_mixed_target_is_the_mixture_of_its_classes(mode):
    share, other = 0.3, (Y + 1) % 7
    mixed = share * one_hot(Y, 7) + (1 - share) * one_hot(other, 7)
    a, b, both = (
        losses(FocalLoss(mode=mode), logits=Z, target=t, counts=EQUAL) for t in (Y, other, mixed)
    )
    torch.testing.assert_close(both, share * a + (1 - share) * b, atol=1e-5, rtol=1e-5)


def test_the_factor_sees_the_adjusted_logits():
    shifted = adjusted(LOGITS, ClassStatistics({"label": COUNTS}).log_prior("label"), 1.0)
    torch.testing.assert_close(
        losses(FocalLoss(), BalancedSoftmax()), losses(FocalLoss(), logits=shifted)
    )


@pytest.mark.parametrize("mode", ["softmax", "sigmoid"])
def test_pseudo_labels_keep_cross_entropy(mode):
    found = criterion_of(FocalLoss(mode=mode))(LOGITS, TARGETS, "label", "pseudo")
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, TARGETS, reduction="none"))


def test_sigmoid_heads_start_rare_and_learn():
    recipe = build({"focal_loss": FocalLoss(mode="sigmoid")}, Setup(tasks={"label": 5}))
    torch.testing.assert_close(recipe.network.heads["label"].bias, torch.full((5,), -math.log(4)))
    found = train({"focal_loss": FocalLoss(mode="sigmoid", gamma=0.5)}, steps=30, lr=0.3).losses
    assert found[-1] < found[0] and all(map(math.isfinite, found))


def test_mistakes_are_refused():
    with pytest.raises(UserError, match=r"alpha=0\.25: only mode=sigmoid"):
        FocalLoss(alpha=0.25)
    methods = {"focal_loss": FocalLoss(mode="sigmoid"), "balanced_softmax": BalancedSoftmax()}
    with pytest.raises(
        UserError,
        match=r"focal_loss cannot be combined with .*balanced_softmax: a shift .* use mode=softmax",
    ):
        build(methods, Setup())
    build({"focal_loss": FocalLoss(), "balanced_softmax": BalancedSoftmax()}, Setup())
