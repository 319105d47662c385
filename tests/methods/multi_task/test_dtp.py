import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from foundation.errors import UserError
from foundation.randomness import generator
from methods.long_tail.focal_loss import FocalLoss
from methods.multi_task.dtp import (
    DTP,
    above_chance,
    correct_and_labeled,
    focal_weights,
    moved_average,
)
from methods.regularization.sam import SAM
from recipes.step.criterion import one_hot
from tests.support.harness import Setup, build, train
from tests.support.worked_multi_task import TASKS

SOURCE = generator("dtp")
Z, Y = torch.randn(50, 4, generator=SOURCE), torch.randint(4, (50,), generator=SOURCE)


@pytest.mark.parametrize(
    ("kpi", "gamma", "expected"),
    [
        (0.5, 0.0, 0.693147),
        (0.5, 1.0, 0.346574),
        (0.5, 2.0, 0.173287),
        (0.1, 1.0, 2.072327 * 1.0),
        (0.9, 1.0, 0.010536),
        (0.0, 0.0, -math.log(0.05)),
        (1.0, 0.0, -math.log(0.99)),
    ],
)
def test_worked_weights(kpi, gamma, expected):
    assert float(focal_weights(torch.tensor(kpi), gamma)) == pytest.approx(expected, abs=1e-6)


def test_weights_fall_as_the_kpi_rises():
    values = focal_weights(torch.linspace(0.05, 0.99, 50), 0.7)
    assert (values.diff() < 0).all()


def test_worked_average():
    new, old = torch.tensor([0.8, 0.8]), torch.tensor([0.5, 0.5])
    found = moved_average(old, new, torch.tensor([True, False]), 0.1)
    assert found.tolist() == pytest.approx([0.53, 0.8])


def test_accuracy_is_that_of_torchmetrics():
    y = Y.clone()
    y[::4] = -1
    correct, labeled = correct_and_labeled(Z, y)
    expected = multiclass_accuracy(Z, y, 4, average="micro", ignore_index=-1)
    assert float(correct / labeled) == pytest.approx(float(expected))
    mixed = 0.7 * one_hot(Y, 4) + 0.3 * one_hot(Y.flip(0), 4)
    assert torch.equal(correct_and_labeled(Z, mixed), correct_and_labeled(Z, Y))


def test_above_chance():
    classes = torch.tensor([10.0, 100.0, 2.0])
    assert above_chance(1 / classes, classes).tolist() == pytest.approx([0, 0, 0])
    assert above_chance(torch.tensor([0.55, 1.0, 0.2]), classes).tolist() == pytest.approx(
        [0.5, 1.0, 0.0]
    )


@pytest.mark.parametrize("gamma", [0.5, [0.5, 1.0, 2.0]])
def test_in_a_run(gamma):
    """Weights by hand from the logits of each step; the losses are focal ones of torch."""
    method = DTP(gamma, momentum=0.3)
    seen = []
    task_weights = method.task_weights

    def watched(losses, step, context):
        seen.append(
            {
                t: correct_and_labeled(
                    step.logits("labeled", t), step.streams["labeled"].targets[t]
                )
                for t in TASKS
            }
        )
        return task_weights(losses, step, context)

    method.task_weights = watched
    result = train({"dtp": method}, tasks=TASKS, steps=4)
    exponents = gamma if isinstance(gamma, list) else [gamma] * 3
    average = dict.fromkeys(TASKS)
    for row, counts in zip(result.history, seen, strict=True):
        for (task, (correct, labeled)), exponent in zip(counts.items(), exponents, strict=True):
            kpi = float(correct / labeled)
            before = average[task]
            average[task] = kpi if before is None else 0.3 * kpi + 0.7 * before
            k = min(max(average[task], 0.05), 0.99)
            expected = -((1 - k) ** exponent) * math.log(k)
            assert row[f"train/weight/{task}"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        terms = [row[f"train/weight/{t}"] * row[f"train/supervised/{t}"] for t in TASKS]
        assert row["train/loss"] == pytest.approx(sum(terms), rel=1e-5)


def test_samples_have_the_focal_loss():
    plain = train({"focal_loss": FocalLoss(gamma=1.5)}, tasks=TASKS, steps=1).history[0]
    for example_gamma, expected in ((1.5, plain), (0.0, train(tasks=TASKS, steps=1).history[0])):
        method = DTP(example_gamma=example_gamma)
        row = train({"dtp": method}, tasks=TASKS, steps=1).history[0]
        for task in TASKS:
            name = f"train/supervised/{task}"
            assert row[name] == pytest.approx(expected[name], rel=1e-6)


def test_the_kpi_moves_once_a_batch():
    method = DTP(momentum=1.0)
    result = train({"dtp": method, "sam": SAM()}, tasks=TASKS, steps=2)
    last = result.recipe.last_step
    targets = last.streams["labeled"].targets
    counts = [correct_and_labeled(last.logits("labeled", t), targets[t]) for t in TASKS]
    expected = [float(correct / labeled) for correct, labeled in counts]
    assert result.recipe.method_modules["dtp"].kpi.tolist() == pytest.approx(expected)


def test_a_task_without_labels_keeps_its_kpi_and_starts_at_one():
    recipe = build({"dtp": DTP()}, Setup(tasks=TASKS))
    method, state = recipe.composition.methods["dtp"], recipe.method_modules["dtp"]
    method.update(state, torch.tensor([0.5, 0.0, 0.25]), torch.tensor([True, False, True]))
    method.update(state, torch.tensor([0.0, 0.0, 0.75]), torch.tensor([False, False, True]))
    assert state.kpi.tolist() == pytest.approx([0.5, 0.0, 0.3])
    assert state.seen.tolist() == [True, False, True]


def test_what_it_refuses():
    with pytest.raises(UserError, match="found 2 exponents for 3 tasks"):
        build({"dtp": DTP([1.0, 2.0])}, Setup(tasks=TASKS))
    methods = {"dtp": DTP(), "focal_loss": FocalLoss()}
    with pytest.raises(UserError, match="both weigh well-classified samples down"):
        build(methods, Setup(tasks=TASKS))
    build({"dtp": DTP(example_gamma=0.0), "focal_loss": FocalLoss()}, Setup(tasks=TASKS))
