import math

import pytest
import torch

from methods.multi_task.uncertainty import Uncertainty, uncertain
from recipes.optimization.build import parameter_groups
from recipes.optimization.optimizers import SGD
from tests.support.harness import Setup, build, fit, train
from tests.support.worked_multi_task import TASKS

L = torch.tensor([2.0, 0.5])


def total_and_gradient(start: float, form):
    s = torch.full((2,), start, requires_grad=True)
    total = uncertain(L, s, form)[0].sum()
    return float(total.detach()), torch.autograd.grad(total, s)[0].tolist()


def test_worked_examples():
    assert total_and_gradient(0.0, "regression") == (1.25, [-0.5, 0.25])
    assert float(uncertain(L, torch.tensor(-0.5), "regression")[1]) == pytest.approx(
        0.824361, abs=1e-6
    )
    total, gradient = total_and_gradient(1.0, "revised")
    assert total == pytest.approx(2.636294, abs=1e-3) and gradient == pytest.approx(
        [-1, 0.5], abs=1e-3
    )


@pytest.mark.parametrize(
    ("form", "best"), [("regression", math.log(2.0)), ("classification", math.log(4.0))]
)
def test_closed_form_optimum(form, best):
    s = torch.tensor(best, requires_grad=True)
    value, weight = uncertain(torch.tensor(2.0), s, form)
    assert float(torch.autograd.grad(value, s)[0]) == pytest.approx(0, abs=1e-6)
    assert float(value.detach()) == pytest.approx(0.5 + 0.5 * best)
    assert float(weight.detach()) == pytest.approx(1 / 4)


def test_the_revised_optimum():
    for loss, variance in ((2.0, 1.618034), (0.5, 0.640388)):
        s = torch.tensor(math.sqrt(variance), requires_grad=True)
        (slope,) = torch.autograd.grad(uncertain(torch.tensor(loss), s, "revised")[0], s)
        assert float(slope) == pytest.approx(0, abs=1e-3)


def test_variances_learn_and_stay_within_bounds():
    result = train({"uncertainty": Uncertainty()}, tasks=TASKS, steps=3)
    values = result.recipe.method_modules["uncertainty"].values
    assert (values != 0).all()
    row = result.history[0]
    assert row["train/loss"] == pytest.approx(
        sum(row[f"train/supervised/{task}"] for task in TASKS), rel=1e-5
    )
    assert [row[f"train/weight/{task}"] for task in TASKS] == [1, 1, 1]


@pytest.mark.parametrize("bound", [-10.0, 10.0])
def test_variances_return_from_their_bounds(bound):
    """At s = 10 the slope is about 1/2, at s = -10 about -e^10 L."""
    result = train({"uncertainty": Uncertainty(init=bound)}, tasks=TASKS, steps=1, lr=1e-5)
    values = result.recipe.method_modules["uncertainty"].values
    assert (values.abs() < 10.0).all()


def test_variances_beyond_a_bound_are_brought_back_to_it():
    recipe = build({"uncertainty": Uncertainty()}, Setup(tasks=TASKS, lr=0.0))
    recipe.method_modules["uncertainty"].values.data.fill_(-50.0)
    result = fit(recipe, Setup(tasks=TASKS, lr=0.0, steps=1))
    assert result.history[0]["train/weight/shape"] == pytest.approx(math.exp(10.0))


def test_a_task_without_labels_leaves_its_variance_alone():
    setup = Setup(tasks={"shape": 3, "colour": 4}, steps=1, missing=True)
    recipe = build({"uncertainty": Uncertainty()}, setup)
    original = Setup.batches

    class Unlabeled(Setup):
        def batches(self, streams):
            found = original(self, streams)
            for batch in found:
                batch["labeled"]["targets"]["colour"].fill_(-1)
            return found

    result = fit(recipe, Unlabeled(tasks=setup.tasks, steps=1, missing=True))
    shape, colour = result.recipe.method_modules["uncertainty"].values.tolist()
    assert shape != 0 and colour == 0


def test_variances_have_a_group_of_their_own():
    recipe = build({"uncertainty": Uncertainty(lr_scale=10.0)}, Setup(tasks=TASKS))
    extra = recipe.composition.methods["uncertainty"].parameter_groups(recipe)
    groups = parameter_groups(recipe, SGD(lr=0.1, weight_decay=0.5), extra)
    (own,) = [
        g
        for g in groups
        if any(p is recipe.method_modules["uncertainty"].values for p in g["params"])
    ]
    assert own["lr"] == pytest.approx(1.0) and own["weight_decay"] == 0 and len(own["params"]) == 1
