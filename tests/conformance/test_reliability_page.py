"""The tables of docs/reliability.md are those of the numbers kept, of all recipes and methods."""

import pytest

from benchmarks.machine import ROOT
from benchmarks.record import load
from recipes.config.groups import CONFIGS
from tests.conformance.test_ranks import limit
from tests.support.reliability_numbers import KILLS, RANKS, kills_table, ranks_table
from tests.support.tiny_runs import METHODS

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [kills_table, ranks_table])
def test_the_page_holds_the_table(table):
    assert table() in PAGE, f"stale; put this into docs/reliability.md:\n{table()}"


def test_every_recipe_was_killed_and_none_differed():
    kept = load(KILLS)["recipes"]
    assert set(kept) == {path.stem for path in (CONFIGS / "recipe").glob("*.yaml")}
    assert all(found["kills"] >= 3 and not found["differing"] for found in kept.values())
    assert sum(found["kills"] for found in kept.values()) >= 100


def test_every_method_was_tried_on_two_ranks():
    cases = load(RANKS)["cases"]
    assert {key for case in cases for key in case["keys"]} == set(METHODS)
    assert all(case["alike"] for case in cases)
    assert all(
        case["distance"] <= limit(case["keys"], case["moved"]) for case in cases if case["declared"]
    )
