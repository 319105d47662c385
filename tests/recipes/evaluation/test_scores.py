"""Macro F1, precision, areas, top-k and calibration: against scikit-learn and plain loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from foundation.errors import UserError
from recipes.evaluation.scores import Scores
from recipes.step import Output


def drawn(rows=300, classes=7, seed=0):
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=source)
    logits = 2 * torch.randn(rows, classes, generator=source)
    logits[torch.arange(rows), labels] += 1.5
    return logits, labels


def measured(logits, targets, **settings):
    """The probe fed with batches of 64. logits, targets: by task."""
    probe = Scores(**settings)
    tasks = {task: SimpleNamespace(outputs=values.shape[1]) for task, values in logits.items()}
    probe.build(SimpleNamespace(tasks=tasks))
    rows = torch.arange(len(next(iter(targets.values()))))
    network = SimpleNamespace(embed=lambda view: view)
    for batch in rows.split(64):
        context = SimpleNamespace(
            reported=lambda: network,
            predict_output=lambda view, index: Output(
                torch.zeros(len(view), 1), {task: values[view] for task, values in logits.items()}
            ),
        )
        part = {task: values[batch] for task, values in targets.items()}
        probe.update(context, batch, part, batch)
    return probe, {name: float(value) for name, value in probe.compute().items()}


def calibration_error(p, labels, bins):
    confidence, guess = p.max(1)
    total = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            right = (guess == labels)[inside].double().mean()
            total += float(inside.sum()) * abs(float(right - confidence[inside].double().mean()))
    return total / len(labels)


@pytest.mark.parametrize("seed", range(2))
def test_the_same_as_scikit_learn(seed):
    logits, labels = drawn(seed=seed)
    _, found = measured({"label": logits}, {"label": labels}, top=[2, 5], thresholds=2000)
    p = logits.softmax(1)
    guess = p.argmax(1)
    one_hot = np.eye(7)[labels]
    expected = {
        "f1": sk.f1_score(labels, guess, average="macro"),
        "precision": sk.precision_score(labels, guess, average="macro"),
        "top2": sk.top_k_accuracy_score(labels, p, k=2),
        "top5": sk.top_k_accuracy_score(labels, p, k=5),
        "ece": calibration_error(p, labels, 15),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # areas from 2000 thresholds instead of all
    areas = {
        "auroc": sk.roc_auc_score(
            labels, p.double() / p.double().sum(1, keepdim=True), multi_class="ovr"
        ),
        "average_precision": sk.average_precision_score(one_hot, p, average="macro"),
    }
    assert {name: found[name] for name in areas} == pytest.approx(areas, abs=2e-3)


def test_samples_without_a_label_and_classes_that_are_not_there():
    logits, labels = drawn()
    some = labels.clone()
    some[::3] = -1
    _, found = measured({"label": logits}, {"label": some})
    _, expected = measured({"label": logits[some >= 0]}, {"label": some[some >= 0]})
    assert found == pytest.approx(expected)
    absent = labels.clone()
    absent[absent == 6] = 0
    _, found = measured({"label": logits}, {"label": absent})
    assert all(np.isfinite(list(found.values())))


def test_several_tasks_and_names_for_the_monitor():
    (first, a), (second, b) = drawn(classes=7), drawn(classes=3, seed=1)
    probe, found = measured({"a": first, "b": second}, {"a": a, "b": b})
    assert found["f1"] == pytest.approx((found["a/f1"] + found["b/f1"]) / 2)
    assert "a/top5" in found and "b/top5" not in found and found["top5"] == found["a/top5"]
    assert set(found) - set(probe.metric_names(["a", "b"])) == set()
    assert set(measured({"a": first}, {"a": a})[1]) == set(probe.metric_names(["a"]))
    probe.reset()
    assert not set(measured({"a": first}, {"a": a}, thresholds=0)[1]) & {"auroc"}


def test_one_threshold_is_refused():
    with pytest.raises(UserError, match=r"evaluate\.scores\.thresholds=1"):
        Scores(thresholds=1)
