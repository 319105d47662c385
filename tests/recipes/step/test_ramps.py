import pytest

from recipes.step import Progress
from recipes.step.ramps import Ramp


def values(ramp: Ramp, *steps: int, total: int = 100) -> list[float]:
    return [ramp(Progress(step, total)) for step in steps]


def test_linear():
    assert values(Ramp("linear", end=0.4), 0, 10, 20, 40, 99) == pytest.approx([0, 0.25, 0.5, 1, 1])


def test_sigmoid():
    expected = [0.00673795, 0.0600547, 0.2865048, 0.7316156, 1, 1]
    assert values(Ramp("sigmoid", end=0.8), 0, 20, 40, 60, 80, 99) == pytest.approx(
        expected, rel=1e-5
    )


def test_constant_is_one_from_its_start():
    assert values(Ramp("constant", start=0.3), 0, 29, 30, 99) == [0, 0, 1, 1]
    assert values(Ramp(), 0, 99) == [1, 1]


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
def test_before_its_start_a_ramp_is_zero_and_without_length_a_step(kind):
    assert values(Ramp(kind, 0.2, 0.6), 0, 19) == [0, 0]
    assert values(Ramp(kind, 0.2, 0.2), 19, 20) == [0, 1]


def test_progress_ends_at_one():
    assert Progress(30, 20).fraction == 1.0
    assert Progress(5, 20).fraction == 0.25
    assert values(Ramp("linear", end=1.0), 0, total=0) == [0]
