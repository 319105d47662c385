from types import SimpleNamespace

import pytest
import torch

from methods.multi_task.dwa import DWA, average_weights
from recipes.step import Progress
from tests.support.harness import Setup, build, train
from tests.support.worked_multi_task import TASKS


def weights_of(ratios, temperature=2.0):
    return average_weights(torch.tensor(ratios), torch.ones(len(ratios)), temperature).tolist()


def test_worked_examples():
    assert weights_of([0.9, 0.5]) == pytest.approx([1.099668, 0.900332], abs=1e-6)
    assert weights_of([0.9, 0.5, 1.1]) == pytest.approx([1.026026, 0.840039, 1.133934], abs=1e-6)
    assert weights_of([0.7, 0.7]) == pytest.approx([1, 1])
    assert weights_of([0.1, 5.0], 1e6) == pytest.approx([1, 1], abs=1e-5)


def losses_and_weights(method, steps, **settings):
    rows = train({"dwa": method}, tasks=TASKS, steps=steps, **settings).history
    losses = torch.tensor([[row[f"train/supervised/{task}"] for task in TASKS] for row in rows])
    return losses, [[row[f"train/weight/{task}"] for task in TASKS] for row in rows]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_windows_in_the_engine(accumulate):
    losses, weights = losses_and_weights(DWA(temperature=0.3, window=2), 7, accumulate=accumulate)
    assert weights[:4] == [[1, 1, 1]] * 4
    for step, (last, before) in ((4, (1, 0)), (6, (2, 1))):
        means = [losses[2 * e : 2 * e + 2].mean(0) for e in (last, before)]
        assert weights[step] == pytest.approx(average_weights(*means, 0.3).tolist(), rel=1e-4)
    assert weights[4] == weights[5]


def test_a_window_is_one_pass_over_the_labels_unless_told():
    assert losses_and_weights(DWA(0.3), 9)[1] == losses_and_weights(DWA(0.3, window=24 // 6), 9)[1]


def test_a_second_pass_is_not_counted():
    from methods.regularization.sam import SAM

    result = train({"dwa": DWA(window=10), "sam": SAM()}, tasks=TASKS, steps=3)
    assert result.recipe.method_modules["dwa"].count.tolist() == [3, 3, 3]


def test_a_pass_over_the_labels_has_fewer_steps_with_accumulation():
    """24 samples, 6 in a micro-batch, 2 of these in a step."""
    by_pass = losses_and_weights(DWA(0.3), 5, accumulate=2)[1]
    assert by_pass == losses_and_weights(DWA(0.3, window=2), 5, accumulate=2)[1]
    assert by_pass[4] != [1, 1, 1]


def test_a_task_without_labels_in_a_window_keeps_its_last_mean():
    recipe = build({"dwa": DWA(window=2)}, Setup(tasks=TASKS))
    state = recipe.method_modules["dwa"]
    state.last.copy_(torch.tensor([0.5, 0.7, 0.9]))
    state.total.copy_(torch.tensor([0.4, 0.0, 0.6]))
    state.count.copy_(torch.tensor([2.0, 0.0, 2.0]))
    step = SimpleNamespace(progress=Progress(3, 10))
    recipe.composition.methods["dwa"].after_step(step, recipe)
    assert state.last.tolist() == pytest.approx([0.2, 0.7, 0.3])
    ratios = torch.tensor([0.4, 1.0, 1 / 3])
    expected = average_weights(ratios, torch.ones(3), 2.0)
    torch.testing.assert_close(state.upcoming, expected)
    assert state.count.tolist() == [0, 0, 0] == state.total.tolist()
