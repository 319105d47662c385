"""Binary cross-entropy: timm's numbers on hard, smoothed, mixed and thresholded targets."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy

from foundation.errors import UserError
from methods.long_tail.balanced_softmax import BalancedSoftmax
from methods.long_tail.focal_loss import FocalLoss
from methods.regularization.bce import BCE
from methods.regularization.label_smoothing import LabelSmoothing, smooth
from methods.regularization.mixup import Mixup
from recipes.step.criterion import one_hot
from tests.support.harness import Setup, build, train

SOURCE = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(6, 4, generator=SOURCE)
LABELS = torch.tensor([0, 1, 2, 3, 1, 0])
MIXED = 0.7 * one_hot(LABELS, 4) + 0.3 * one_hot(LABELS.flip(0), 4)


def loss(method, targets):
    """Of the criterion, without a method's own inputs: a step of which only scratch is used."""
    from types import SimpleNamespace

    from recipes.step.criterion import Criterion

    method.key = "bce"
    tasks = {"label": SimpleNamespace(outputs=4)}
    inputs = {"labeled": SimpleNamespace(targets={"label": targets})}
    step = SimpleNamespace(scratch={}, inputs=inputs)
    context = SimpleNamespace(tasks=tasks)
    method.prepare(step, context)
    criterion = Criterion(class_losses=[lambda *a: method.class_losses(*a, context)])
    return criterion(step, LOGITS, targets, "label", "labeled")


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize(
    ("ours", "smoothing", "theirs"),
    [
        (LABELS, 0.0, LABELS),
        (smooth(one_hot(LABELS, 4), 0.1, "uniform"), 0.1, LABELS),
        (MIXED, 0.1, MIXED),
    ],
    ids=["hard", "smoothed", "mixed"],
)
def test_the_same_as_timms(ours, smoothing, theirs, threshold, summed):
    reference = BinaryCrossEntropy(smoothing, threshold, sum_classes=summed)(LOGITS, theirs)
    found = loss(BCE(threshold, summed), ours).mean()
    torch.testing.assert_close(found, reference, atol=1e-5, rtol=1e-5)


def test_missing_labels_cost_nothing_and_large_logits_are_finite():
    targets = torch.tensor([0, -1, 2, 3, 1, 0])
    for threshold in (None, 0.2):
        values = loss(BCE(threshold), targets)
        assert values[1] == 0 and (values[[0, 2, 3, 4, 5]] > 0).all()
    assert (
        BCE().class_losses(None, torch.full((1, 3), 1e4), "label", "labeled", None).isfinite().all()
    )


def test_pseudo_labels_keep_the_cross_entropy():
    assert BCE().class_losses(None, LOGITS, "label", "pseudo", None) is None


def test_thresholds_are_of_the_mixed_and_smoothed_targets():
    methods = {"bce": BCE(0.2), "label_smoothing": LabelSmoothing(), "mixup": Mixup(alpha=0.5)}
    composition = build(methods, Setup()).composition
    assert list(composition.methods)[-1] == "bce"
    assert train(methods).losses != train({"mixup": Mixup(alpha=0.5)}).losses


@pytest.mark.parametrize("other", [BalancedSoftmax(), FocalLoss(), FocalLoss(mode="sigmoid")])
def test_what_is_of_a_softmax_is_refused(other):
    with pytest.raises(UserError, match="bce"):
        build({"bce": BCE(), "other": other}, Setup())
