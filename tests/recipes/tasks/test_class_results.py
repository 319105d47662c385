"""Results of many classes: exact counts, nothing of size C × C, and a page with the worst and best
classes."""

import pytest
import torch

from recipes.engine.evaluator import Evaluator
from recipes.report.many_classes import many_classes_note, worst_and_best
from recipes.report.page import page_html
from recipes.report.record import RunRecord
from recipes.tasks.class_results import MOST_IN_MATRIX
from recipes.tasks.classification import ClassificationTask


def evaluated(classes: int, batches: int = 2) -> tuple[Evaluator, torch.Tensor, torch.Tensor]:
    """An evaluator after some batches, its labels and predictions."""
    generator = torch.Generator().manual_seed(0)
    evaluator = Evaluator([ClassificationTask("label", [""] * classes)], both=False)
    labels = torch.randint(-1, classes, (batches, 32), generator=generator)
    guesses = torch.where(torch.rand(batches, 32, generator=generator) < 0.5, labels, 1)
    guesses = guesses.clamp_min(0)
    for label, guess in zip(labels, guesses, strict=True):
        logits = torch.zeros(32, classes).scatter(1, guess[:, None], 3.0)
        evaluator.update(False, {"label": logits}, {"label": label})
    return evaluator, labels.flatten(), guesses.flatten()


@pytest.mark.parametrize("classes", [7, MOST_IN_MATRIX, MOST_IN_MATRIX + 1])
def test_counts_of_each_class(classes):
    evaluator, labels, guesses = evaluated(classes)
    values = evaluator.compute("test")
    known = labels >= 0
    expected = [
        torch.bincount(labels[known], minlength=classes),
        torch.bincount(labels[known & (labels == guesses)], minlength=classes),
        torch.bincount(guesses[known], minlength=classes),
    ]
    assert torch.equal(evaluator.class_counts["label"], torch.stack(expected))
    right = float((labels == guesses)[known].float().mean())
    assert values["test/accuracy"] == pytest.approx(right)
    if classes > MOST_IN_MATRIX:
        assert evaluator.confusion == {}
        return
    matrix = evaluator.confusion["label"]
    assert torch.equal(matrix.sum(1), expected[0]) and torch.equal(matrix.sum(0), expected[2])
    assert torch.equal(matrix.diagonal(), expected[1])


def test_a_hundred_thousand_classes_are_evaluated_and_reported():
    classes = 100_000
    evaluator, labels, guesses = evaluated(classes)
    evaluator.compute("test")
    assert sum(value.numel() for value in evaluator.state_dict().values()) <= 4 * classes
    states = evaluator.of(False)["label"].results.metric_state
    assert max(state.numel() for state in states.values()) == classes
    record = RunRecord(
        "many",
        classes={"label": [f"class {i}" for i in range(classes)]},
        train_counts={"label": [2] * classes},
        class_results={"label": evaluator.class_counts["label"].tolist()},
    )
    page = page_html(record)
    assert len(page) < 300_000
    assert "100,000 classes are too many for a confusion matrix" in page
    worst, best = worst_and_best(record, "label")
    right = {int(c) for c in labels[labels == guesses] if c >= 0}
    assert not right & set(worst) and set(best) <= right


def test_the_worst_and_best_classes_are_those_with_most_samples():
    samples = [10, 4, 0, 5, 9, 2]
    correct = [0, 0, 0, 5, 9, 1]
    record = RunRecord("few", class_results={"label": [samples, correct, samples]})
    assert worst_and_best(record, "label") == ([0, 1, 5, 4, 3], [4, 3, 5, 0, 1])
    assert many_classes_note(record, "label").startswith("50.0 % of 30 test samples are correct.")
