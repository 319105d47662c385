"""A run is killed by SIGKILL inside a survey, the first one and a later one, and resumed: it ends
bit-identical to a run that nobody disturbed.

    pytest -m slow -n 0 tests/conformance/test_kill_in_surveys.py
"""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.killed import command
from tests.support.killed_runs import at, begin, differences, finish, state
from tests.support.tiny_runs import METHODS, declared

pytestmark = pytest.mark.slow
SURVEYING = [key for key in METHODS if declared(key).surveys]


def killed_in_a_survey(arguments: list[str], folder: Path, number: int) -> bool:
    """Kill the run in its survey of this number, from 1; False if it ended before."""
    process: Any = begin(arguments, folder)
    seen, before = 0, ""
    while process.is_alive():
        now = at(folder)
        seen += now == "a survey" != before
        before = now
        if seen == number and now == "a survey":
            process.kill()
            process.join()
            return True
        time.sleep(0.0005)
    return False


@pytest.mark.parametrize("key", SURVEYING)
def test_a_run_killed_in_a_survey_ends_as_if_it_was_not(key: str, tmp_path: Path):
    kind = declared(key).modalities[0]
    arguments = [
        word
        for word in command(key, kind, tmp_path)
        if not word.startswith(("run_dir=", "resume="))
    ]
    finish(arguments, tmp_path / "whole")
    caught = 0
    for number in (1, 2, 3):
        folder = tmp_path / f"killed-{number}"
        caught += killed_in_a_survey(arguments, folder, number)
        finish(arguments, folder)
        assert not differences(state(tmp_path / "whole"), state(folder)), number
    assert caught, "no survey was under way long enough to be met"
