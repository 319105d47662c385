import torch
import torch.nn.functional as F

from foundation.randomness import generator
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.logit_adjustment import LogitAdjustment
from methods.regularization.mixup import Mixup
from methods.semi_supervised.fixmatch import FixMatch
from recipes.step.criterion import one_hot
from tests.support.harness import train
from tests.support.worked_long_tail import LOGITS, TARGETS, criterion_of, losses


def test_worked_example():
    found = losses(BalancedSoftmax())
    torch.testing.assert_close(found, torch.tensor([0.03743190, 3.65348008]), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.mean(), torch.tensor(1.84545599), atol=2e-6, rtol=0)


def test_equals_cross_entropy_with_the_log_of_the_counts():
    source = generator("balanced softmax")
    z, y = torch.randn(64, 7, generator=source), torch.randint(7, (64,), generator=source)
    n = torch.randint(1, 5000, (7,), generator=source)
    expected = F.cross_entropy(z + n.log(), y, reduction="none")
    torch.testing.assert_close(
        losses(BalancedSoftmax(), logits=z, target=y, counts=n), expected, atol=1e-5, rtol=0
    )
    dense = torch.softmax(torch.randn(64, 7, generator=source), 1)
    expected = F.cross_entropy(z + n.log(), dense, reduction="none")
    torch.testing.assert_close(
        losses(BalancedSoftmax(), logits=z, target=dense, counts=n), expected
    )


def test_equal_counts_are_plain_cross_entropy_and_an_absent_class_counts_as_one():
    plain = F.cross_entropy(LOGITS, TARGETS, reduction="none")
    torch.testing.assert_close(losses(BalancedSoftmax(), counts=torch.tensor([7, 7, 7])), plain)
    absent, single = (losses(BalancedSoftmax(), counts=torch.tensor([9, n, 3])) for n in (0, 1))
    torch.testing.assert_close(absent, single)


def test_it_is_logit_adjustment_with_tau_one_in_a_run():
    methods = {"fixmatch": FixMatch(threshold=0.0), "mixup": Mixup()}
    ours = train({**methods, "balanced_softmax": BalancedSoftmax()}, steps=3)
    theirs = train({**methods, "logit_adjustment": LogitAdjustment()}, steps=3)
    assert ours.losses == theirs.losses != train(methods, steps=3).losses


def test_pseudo_labels_and_predictions_see_raw_logits():
    criterion = criterion_of(BalancedSoftmax())
    pseudo = criterion(LOGITS, TARGETS, "label", "pseudo")
    torch.testing.assert_close(pseudo, F.cross_entropy(LOGITS, TARGETS, reduction="none"))
    dense = criterion(LOGITS, one_hot(TARGETS, 3), "label", "labeled")
    torch.testing.assert_close(dense, losses(BalancedSoftmax()))
    assert not BalancedSoftmax().implements("infer")
