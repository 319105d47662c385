"""Every method of `configs/` is killed at two writes and at two random moments, and a recipe of one
and one of two stages are killed before every single write: they end bit-identical to a run that
nobody disturbed.

    pytest -m slow -n 0 tests/conformance/test_kill_at_writes.py -s      # ends with a table to paste
"""

import random
from pathlib import Path

import pytest

from tests.conformance.killed import command
from tests.conformance.killed_at_writes import HEAD, Outcome, changed_path, undisturbed
from tests.conformance.test_kill_every_recipe import settings
from tests.support.tiny_runs import METHODS, declared

KEYS = sorted(METHODS)
SHORT = ("trainer.max_steps=6", "trainer.val_every=3", "trainer.log_every=2", "resume=auto")
# every other word of the short command of `test_kill_every_recipe` stays
REPLACED = ("trainer.max_steps", "trainer.val_every", "trainer.log_every", "stages.classifier")
STAGE = "stages.classifier=['long_tail=crt','trainer.max_steps=4']"
RECIPES = {"fixmatch": (), "crt": (STAGE,)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def outcomes():
    """What was found so far; printed as a table once all have had their turn."""
    found: list[Outcome] = []
    yield found
    kills = sum(len(outcome.kills) for outcome in found)
    print("\n".join(["", HEAD, *(outcome.row for outcome in found), f"kills in all: {kills}"]))


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_chain_of_kills(key: str, place: Path, outcomes: list[Outcome]):
    """The first kill moves on by one write from method to method, so that all of them together
    meet every write."""
    words = command(key, declared(key).modalities[0], place)
    arguments = [word for word in words if not word.startswith("run_dir=")]
    whole = undisturbed(key, arguments, place)
    first = KEYS.index(key) % len(whole.writes) + 1
    outcome = whole.chain(first, random.Random(key))
    outcomes.append(outcome)
    assert outcome.kills, "it was never killed"
    assert not outcome.error, outcome.error
    assert outcome.differing == (), outcome.kills


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_write(recipe: str, place: Path, outcomes: list[Outcome]):
    shared = [word for word in settings(recipe) if word.partition("=")[0] not in REPLACED]
    whole = undisturbed(recipe, [*shared, *SHORT, *RECIPES[recipe]], place)
    found = [whole.killed_at(number) for number in range(1, len(whole.writes) + 1)]
    outcomes += found
    failed = [outcome.row for outcome in found if outcome.error or outcome.differing]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "event, details, path",
    [
        ("open", ("/a/b", "w", 0o1101), "/a/b"),
        ("open", ("/a/b", None, 0o2), "/a/b"),
        ("open", (b"/a/b", "a", 0o2101), "/a/b"),
        ("open", ("/a/b", "r", 0o2000000), ""),
        ("open", (3, "w", 0o1101), ""),
        ("os.rename", ("/a/.b.part", "/a/b", -1, -1), "/a/.b.part"),
        ("os.mkdir", (Path("/a"), 0o777, -1), "/a"),
        ("os.remove", ("/a", -1), "/a"),
        ("os.listdir", ("/a",), ""),
        ("import", ("torch", None), ""),
    ],
)
def test_what_counts_as_a_write(event, details, path):
    assert changed_path(event, details) == path
