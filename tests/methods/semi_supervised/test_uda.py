import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.uda import UDA, annealing_threshold, unsure
from recipes.step import Progress, Step
from recipes.tasks.classification import ClassificationTask
from tests.support.harness import step_with, train

# pseudo-labels as they are predicted; alignment has a file of its own
paper = partial(UDA, align=0)
WEAK = torch.tensor([[4.0, 0, 0], [2.0, 0, 0]])
STRONG = torch.tensor([[1.0, 0, 0], [0.0, 1, 0]])


def after_terms(
    method: UDA, weak: torch.Tensor = WEAK, strong: torch.Tensor = STRONG, **step
) -> Step:
    method.key = "uda"
    logits = {"unlabeled/weak": weak, "unlabeled/strong": strong} | step.pop("logits", {})
    at = step_with(logits, **step)
    if "labeled" in at.inputs:
        ClassificationTask("label", ["a", "b"]).supervise(at)
    method.terms(at, context=None)
    return at


def test_worked_example():
    term = after_terms(paper()).terms["uda"]
    torch.testing.assert_close(term.values, torch.tensor([0.550537, 1.464927]), atol=1e-6, rtol=0)
    assert term.mask.tolist() == [1, 0]
    assert float(term.reduced()) == pytest.approx(0.275268, abs=1e-6)


def test_without_mask_and_sharpening_it_is_plain_kl():
    source = torch.Generator().manual_seed(0)
    weak, strong = (2 * torch.randn(9, 4, generator=source) for _ in range(2))
    loss = after_terms(paper(threshold=0.0, temperature=1.0), weak, strong).terms["uda"].reduced()
    expected = F.kl_div(F.log_softmax(strong, 1), torch.softmax(weak, 1), reduction="batchmean")
    torch.testing.assert_close(loss, expected)


def test_cold_targets_give_the_gradient_of_fixmatch():
    source = torch.Generator().manual_seed(1)
    weak, start = (3 * torch.randn(9, 4, generator=source) for _ in range(2))
    gradients = []
    for method in (paper(threshold=0.7, temperature=1e-3), FixMatch(threshold=0.7, align=0)):
        method.key, strong = "it", start.clone().requires_grad_()
        at = step_with({"unlabeled/weak": weak, "unlabeled/strong": strong})
        method.terms(at, context=None)
        at.terms["it"].reduced().backward()
        gradients.append(strong.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_mask_is_on_unsharpened_probabilities_and_strict():
    # sharpened at T = .4, both samples would exceed .98
    assert after_terms(paper(threshold=0.95)).terms["uda"].mask.tolist() == [1, 0]
    best = float(torch.softmax(WEAK, 1)[0].max())
    assert after_terms(paper(threshold=best)).terms["uda"].mask.tolist() == [0, 0]


def test_no_gradient_reaches_the_weak_logits_but_through_entropy():
    weak, strong = WEAK.clone().requires_grad_(), STRONG.clone().requires_grad_()
    after_terms(paper(threshold=0.0), weak, strong).terms["uda"].reduced().backward()
    assert weak.grad is None and strong.grad.abs().sum() > 0
    entropy = after_terms(paper(entropy_weight=0.1), weak).terms["uda/entropy"]
    p = torch.softmax(WEAK, 1)
    assert float(entropy.reduced().detach()) == pytest.approx(
        float(-(p * p.log()).sum(1).mean()), abs=1e-6
    )
    entropy.reduced().backward()
    assert weak.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", 0.55), ("exp", 0.173876), ("log", 0.926124)]
)
def test_annealing_half_way(kind, expected):
    assert annealing_threshold(kind, 0.5, 10) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "start"), [("linear", 0.25), ("exp", 0.25 + 0.75 * math.exp(-5)), ("log", 0.25)]
)
def test_annealing_begins_at_chance_and_ends_at_one(kind, start):
    assert annealing_threshold(kind, 0.0, 4) == pytest.approx(start)
    end = 1.0 if kind != "log" else 0.25 + 0.75 * (1 - math.exp(-5))
    assert annealing_threshold(kind, 1.0, 4) == pytest.approx(end)


def test_annealed_cross_entropy_averages_the_kept_samples():
    losses = torch.tensor([0.2, 0.1, 1.5, 0.05])
    p = torch.exp(-losses)
    labeled, targets = torch.stack([p.log(), torch.log1p(-p)], 1), torch.zeros(4, dtype=torch.int64)
    at = after_terms(
        paper(annealing="linear"), logits={"labeled": labeled}, targets=targets, progress=(5, 10)
    )
    supervised = at.terms["supervised"]
    assert supervised.mask.tolist() == [0, 0, 1, 0]
    assert float(supervised.reduced()) == pytest.approx(1.5, abs=1e-5)


def test_annealing_keeps_the_mask_of_missing_labels():
    """Rows: sure, unsure, without a label, of mass one half and unsure, of mass one half and sure."""
    p = torch.tensor([0.9, 0.2, 0.2, 0.4, 0.8])
    labeled = torch.stack([p.log(), torch.log1p(-p)], 1)
    mass = torch.tensor([1.0, 1.0, 0.0, 0.5, 0.5])
    targets = torch.stack([mass, torch.zeros(5)], 1)
    at = step_with(
        {"unlabeled/weak": WEAK, "unlabeled/strong": STRONG, "labeled": labeled}, targets
    )
    at.progress = Progress(5, 10)  # η = 0.75
    ClassificationTask("label", ["a", "b"], partial=True).supervise(at)
    method = paper(annealing="linear")
    method.key = "uda"
    method.terms(at, context=None)
    term = at.terms["supervised"]
    assert term.mask.tolist() == [0, 1, 0, 1, 0]
    expected = -(math.log(0.2) + 0.5 * math.log(0.4)) / 1.5
    assert float(term.reduced()) == pytest.approx(expected, rel=1e-5)


def test_annealing_that_keeps_nobody_gives_zero_not_nan():
    labeled, targets = torch.tensor([[9.0, 0.0]]), torch.tensor([0])
    at = after_terms(
        paper(annealing="linear"), logits={"labeled": labeled}, targets=targets, progress=(0, 10)
    )
    assert float(at.terms["supervised"].reduced()) == 0.0


def test_annealing_looks_at_the_true_class_not_at_the_best():
    logits = torch.tensor([[3.0, 0.0], [3.0, 0.0]])
    assert unsure(logits, torch.tensor([0, 1]), 0.6).tolist() == [0, 1]
    dense = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert unsure(logits, dense, 0.6).tolist() == [0, 1]


def test_trains_with_annealing_on_text():
    history = train(
        {"uda": paper(threshold=0.3, annealing="log", entropy_weight=0.1)}, kind="text", steps=3
    ).history
    assert history[0]["train/uda"] > 0 and history[0]["train/uda/entropy"] > 0
    # at the start η = 1/C: only what is below chance is kept
    assert history[0]["train/supervised"] >= math.log(3)
