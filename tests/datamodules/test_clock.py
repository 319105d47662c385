"""When something is due: by steps, by passes, once."""

import pytest

from datamodules.clock import Clock


def times(clock: Clock, total: int, pass_steps: float = 10) -> list[int]:
    found = []
    done = -1
    while (time := clock.next_after(done, total, lambda stream: pass_steps)) is not None:
        found.append(time)
        done = time
    return found


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (Clock.at_start(), [0]),
        (Clock.once(7), [7]),
        (Clock.once(0.25), [25]),
        (Clock.every_steps(30), [0, 30, 60, 90]),
        (Clock.every_steps(30, first=20), [20, 50, 80]),
        (Clock.every_steps(50), [0, 50]),  # not after the last step: nothing follows
        (Clock.every_pass("labeled", first=65), [65, 75, 85, 95]),
        (Clock.every_pass("labeled", passes=2.5, first=0.1), [10, 35, 60, 85]),
        (Clock.before_validation(), []),
        (Clock.at_finish(), []),
        (Clock.once(100), []),
    ],
)
def test_times(clock, expected):
    assert times(clock, 100) == expected


def test_a_pass_of_no_whole_number_of_steps_is_counted_from_the_first_time():
    """Passes of 3.2 steps end in the steps 4, 7, 10, 13, 16: not each 4 later."""
    assert times(Clock.every_pass("labeled"), 17, 3.2) == [0, 4, 7, 10, 13, 16]
    # a stream that is read several times in a step: once a step
    assert times(Clock.every_pass("labeled"), 4, 0.1) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("clock", "words"),
    [
        (Clock.at_start(), "before the first step"),
        (Clock.once(0.25), "after 25% of the run"),
        (Clock.every_steps(1000, first=20), "after 20 steps and after every 1,000 steps"),
        (
            Clock.every_pass("labeled"),
            "before the first step and after every pass over the labeled samples",
        ),
        (
            Clock.every_pass("unlabeled", passes=2.5, first=1500),
            "after 1,500 steps and after every 2.5 passes over the unlabeled samples",
        ),
        (Clock.before_validation(), "before every validation"),
        (Clock.at_finish(), "after the last step"),
    ],
)
def test_words(clock, words):
    assert str(clock) == words


def test_every_time_is_found_from_any_step():
    clock = Clock.every_pass("labeled", first=5)
    whole = times(clock, 200, 7.3)
    for done in range(-1, 200):
        expected = next((time for time in whole if time > done), None)
        assert clock.next_after(done, 200, lambda stream: 7.3) == expected
