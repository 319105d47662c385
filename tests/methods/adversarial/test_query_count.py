"""Queries and success of attacks that see only answers."""

import pytest
import torch

from methods.adversarial.attacks.attack import Queried, Victim, decades
from methods.adversarial.attacks.one_pixel import OnePixel
from methods.adversarial.attacks.square_attack import Square
from methods.adversarial.attacks.threat import Threat
from methods.adversarial.query_count import QueryCount, of_restarts
from methods.adversarial.robustness import OnePixelRobustness, SquareRobustness
from tests.methods.adversarial.test_robustness import linear, measured
from tests.support.worked_attacks import convolutional, pictures


def result(queries, success):
    return Queried(torch.zeros(len(queries), 1), torch.tensor(queries), torch.tensor(success))


def test_success_within_a_budget_of_the_samples_that_were_right():
    count = QueryCount([1, 10, 100])
    count.add(
        torch.tensor([True, True, True, False]), result([1, 10, 100, 1], [True, True, False, True])
    )
    count.add(torch.tensor([True]), result([50], [True]))
    found = {name: float(value) for name, value in count.compute(torch.device("cpu")).items()}
    assert found == {
        "queries": pytest.approx((1 + 10 + 100 + 50) / 4),
        "success@1": pytest.approx(1 / 4),
        "success@10": pytest.approx(2 / 4),
        "success@100": pytest.approx(3 / 4),
    }
    count.reset()
    assert count.compute(torch.device("cpu")) == {}


def test_restarts_add_up_until_the_first_success():
    found = of_restarts(
        [result([5, 9, 9], [True, False, False]), result([2, 3, 9], [True, True, False])]
    )
    assert found.queries.tolist() == [5, 12, 18]
    assert found.success.tolist() == [True, True, False]


def test_budgets():
    assert decades(1000) == [1, 10, 100, 1000]
    assert decades(500) == [1, 10, 100, 500]
    assert decades(1) == [1]


class Counting:
    """A network that counts the pictures it answers for, by the label in their first pixel."""

    def __init__(self):
        self.network = convolutional()
        self.counts = torch.zeros(6, dtype=torch.int64)

    def __call__(self, x):
        # a search of one picture changes few pixels, so the nearest original is its own
        nearest = torch.cdist(x.flatten(1), X.flatten(1)).argmin(1)
        self.counts += torch.bincount(nearest, minlength=6)
        return {"label": self.network(x)}


X, _ = pictures()


@pytest.mark.parametrize("attack", [Square(40), OnePixel(1, 8, 6)], ids=["square", "one_pixel"])
def test_no_query_is_uncounted(attack):
    """What the network answered for a picture is what the attack says; one_pixel also asks again
    about its fittest candidate, whose answer it has."""
    model = Counting()
    y = model.network(X).argmax(1)
    y[0] = (y[0] + 1) % 5  # wrong already

    def draw(purpose):
        from foundation.randomness import SampleRandomness

        return SampleRandomness(0, torch.arange(6)).draw(purpose)

    found = attack.queried(Victim(model, X, {"label": y}), Threat("linf", 0.05), draw)
    again = found.queries // 8 if isinstance(attack, OnePixel) else 0
    assert torch.equal(model.counts, found.queries + again)
    assert found.success[0] and found.queries[0] == (8 if isinstance(attack, OnePixel) else 1)
    wrong = model.network(found.x).argmax(1) != y
    assert torch.equal(found.success, wrong)


@pytest.mark.parametrize(
    ("probe", "most"),
    [(SquareRobustness(0.05, 60), 60), (OnePixelRobustness(3, 6, 4), 30)],
    ids=["square", "one_pixel"],
)
def test_the_measurement_reports_success_by_queries(probe, most):
    recipe, x, y = linear()
    found = measured(probe, recipe, x, y)
    curve = [found[f"success@{budget}"] for budget in decades(most)]
    assert curve == sorted(curve) and curve[-1] > 0
    lost = 1 - found["robust_accuracy"] / found["clean_accuracy"]
    assert curve[-1] == pytest.approx(lost, abs=1e-6)
    assert 1 <= found["queries"] <= most
