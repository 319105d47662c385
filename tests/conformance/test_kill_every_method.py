"""Every method of `configs/` is killed by SIGKILL between two checkpoints and resumed, and ends
bit-identical to a run that nobody disturbed.

    pytest -m slow -n 0 tests/conformance/test_kill_every_method.py -s      # ends with a table to
    paste
"""

from pathlib import Path

import pytest

from tests.conformance.killed import HEAD, STEPS, Verdict, judge
from tests.support.tiny_runs import METHODS, declared

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def verdicts():
    """What was found so far; printed as a table once all methods have had their turn."""
    found: list[Verdict] = []
    yield found
    print("\n".join(["", HEAD, *(verdict.row for verdict in found)]))


@pytest.mark.parametrize("key", METHODS)
def test_killed_and_resumed(key: str, place: Path, verdicts: list[Verdict]):
    """On pictures where the method takes them, else on texts."""
    verdict = judge(key, declared(key).modalities[0], place)
    verdicts.append(verdict)
    assert not verdict.error, verdict.error
    assert verdict.differing == (), f"killed in step {verdict.step} of {STEPS}"
