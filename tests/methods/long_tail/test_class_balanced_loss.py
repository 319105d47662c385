import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.class_balanced_loss import ClassBalancedLoss, effective_number_weights
from methods.long_tail.focal_loss import FocalLoss
from recipes.step.criterion import one_hot
from tests.support.harness import Setup, build, train
from tests.support.worked_long_tail import COUNTS, LOGITS, TARGETS, criterion_of, losses

SOURCE = generator("class-balanced loss")
Z, Y = 2 * torch.randn(64, 7, generator=SOURCE), torch.randint(7, (64,), generator=SOURCE)
N = torch.randint(1, 3000, (7,), generator=SOURCE)


@pytest.mark.parametrize(
    ("beta", "normalize", "expected"),
    [
        (0.99, True, (0.04223747, 0.28004361, 2.67771892)),
        (0.9999, True, (0.02715872, 0.27036887, 2.70247240)),
        (0.99, False, (0.01577368, 0.10458290, 1.0)),
        (0.0, True, (1.0, 1.0, 1.0)),
    ],
)
def test_worked_weights(beta, normalize, expected):
    found = effective_number_weights(COUNTS, beta, normalize)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_beta_near_one_is_inverse_frequency():
    found = effective_number_weights(COUNTS, 1 - 1e-9, True)
    torch.testing.assert_close(found, torch.tensor([0.0270, 0.2703, 2.7027]), atol=1e-4, rtol=0)


def test_an_absent_class_weighs_nothing():
    found = effective_number_weights(torch.tensor([9, 0, 1]), 0.99, True)
    assert float(found[1]) == 0 and float(found.sum()) == pytest.approx(2)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.50604667),
        ({"reduction": "weight"}, 0.37209911),
        ({"normalize": "none"}, 0.18898424),
        ({"normalize": "none", "reduction": "weight"}, 0.37209911),
    ],
)
def test_worked_losses(settings, expected):
    found = losses(ClassBalancedLoss(beta=0.99, **settings)).mean()
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_worked_loss_on_sigmoid_focal():
    found = losses(ClassBalancedLoss(beta=0.99), FocalLoss(mode="sigmoid")).mean()
    assert float(found) == pytest.approx(0.56313147, abs=1e-6)


def test_reduction_by_weight_is_that_of_torch_for_indices_and_for_mixed_targets():
    weights = effective_number_weights(N, 0.999, True)
    method, y = ClassBalancedLoss(0.999, reduction="weight"), Y.clone()
    y[::5] = -1
    expected = F.cross_entropy(Z, y, weights, ignore_index=-1)
    found = losses(method, logits=Z, target=y, counts=N)
    torch.testing.assert_close(found.sum() / (y >= 0).sum(), expected)
    mixed = 0.4 * one_hot(Y, 7) + 0.6 * one_hot(Y.flip(0), 7)
    per_sample = F.cross_entropy(Z, mixed, weights, reduction="none")
    torch.testing.assert_close(
        losses(ClassBalancedLoss(0.999), logits=Z, target=mixed, counts=N), per_sample
    )
    found = losses(method, logits=Z, target=mixed, counts=N).mean()
    torch.testing.assert_close(found, per_sample.sum() / (mixed * weights).sum())


def test_pseudo_labels_keep_cross_entropy():
    found = criterion_of(ClassBalancedLoss())(LOGITS, TARGETS, "label", "pseudo")
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, TARGETS, reduction="none"))


@pytest.mark.parametrize("missing", [False, True])
def test_in_a_run_the_loss_is_the_weighted_one(missing):
    plain = train(steps=1, missing=missing)
    weighted = train({"class_balanced_loss": ClassBalancedLoss(0.9)}, steps=1, missing=missing)
    assert abs(weighted.losses[0] - plain.losses[0]) > 1e-3
    nothing = train(
        {"class_balanced_loss": ClassBalancedLoss(0.0, reduction="weight")},
        steps=1,
        missing=missing,
    )
    assert nothing.losses[0] == pytest.approx(plain.losses[0], rel=1e-6)


def test_the_prior_is_corrected_once():
    methods = {"class_balanced_loss": ClassBalancedLoss(), "balanced_softmax": BalancedSoftmax()}
    with pytest.raises(UserError, match="both own the correction of the class prior"):
        build(methods, Setup())
