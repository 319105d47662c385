"""Verdicts from ratios: met, missed, or open."""

from types import SimpleNamespace

import pytest

from benchmarks.verdicts import Spread, apart, judged


@pytest.mark.parametrize(
    ("count", "left_out"), [(1, 0), (5, 0), (6, 0), (9, 1), (15, 3), (20, 5), (25, 7)]
)
def test_an_interval_of_the_median(count, left_out):
    """The tables of the sign test, two-sided, 5 %."""
    assert Spread([float(i) for i in reversed(range(count))]).interval() == (
        left_out,
        count - 1 - left_out,
    )


@pytest.mark.parametrize(
    ("values", "met"),
    [
        ([0.9, 0.95, 1.2], True),
        ([0.9, 1.01, 1.02], None),
        ([1.01, 1.02, 1.03], False),
        ([0.99, 1.0004, 1.1], True),  # printed as 1.000
    ],
)
def test_verdicts(values, met):
    assert apart({"a": Spread(values), "b": Spread([0.5])}, 1.0) == ([] if met else ["a"], met)


def test_one_that_is_surely_above_is_enough():
    ratios = {"tied": Spread([0.9, 1.01, 1.02]), "slow": Spread([1.1, 1.2, 1.3])}
    told = []
    judged(SimpleNamespace(target=lambda *said: told.append(said)), "text", ratios, why="because")
    ((_, measured, met, why),) = told
    assert met is False and "slow 1.200 (1.100..1.300)" in measured
    assert why == "because. no difference is shown where the interval holds 1: tied"
