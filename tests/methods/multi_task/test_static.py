import pytest

from foundation.errors import UserError
from methods.multi_task.static import Static
from tests.support.harness import train, values_differ
from tests.support.worked_multi_task import TASKS


def test_equal_weights_are_the_plain_sum_bit_for_bit():
    plain, equal = train(tasks=TASKS), train({"static": Static()}, tasks=TASKS)
    assert plain.losses == equal.losses and values_differ(plain.parameters, equal.parameters) == []


@pytest.mark.parametrize(("how", "total"), [("none", 6), ("one", 1), ("tasks", 3)])
def test_weighted_sum(how, total):
    row = train({"static": Static([1.0, 2.0, 3.0], how)}, tasks=TASKS, steps=1).history[0]
    weights = [total * w / 6 for w in (1, 2, 3)]
    assert [row[f"train/weight/{task}"] for task in TASKS] == pytest.approx(weights)
    losses = [row[f"train/supervised/{task}"] for task in TASKS]
    assert row["train/loss"] == pytest.approx(
        sum(w * loss for w, loss in zip(weights, losses, strict=True)), rel=1e-5
    )


def test_a_task_of_weight_zero_does_not_train_its_head():
    start = train({"static": Static([1.0, 0.0, 1.0])}, tasks=TASKS, steps=1, lr=0.0).parameters
    end = train({"static": Static([1.0, 0.0, 1.0])}, tasks=TASKS, steps=3).parameters
    assert {
        name.split(".")[1] for name in values_differ(start, end) if name.startswith("heads.")
    } == {"shape", "size"}


def test_a_weight_for_every_task():
    with pytest.raises(UserError, match=r"methods.static.weights=\[1.0\]: expected 3 numbers"):
        train({"static": Static([1.0])}, tasks=TASKS)
