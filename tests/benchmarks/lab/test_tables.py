"""The tables of docs/reliability.md are those of the numbers kept, of all recipes and methods."""

import json
from pathlib import Path

import pytest

from benchmarks.lab import kill_test, rank_equality
from recipes.config.groups import CONFIGS
from tests.conformance.test_ranks import limit
from tests.support.tiny_runs import METHODS

PAGE = (Path(__file__).parents[3] / "docs" / "reliability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", [kill_test, rank_equality])
def test_the_page_holds_the_table(program):
    name = Path(program.__file__).name
    assert program.page() in PAGE, (
        f"stale: the table of docs/reliability.md is that of benchmarks/lab/{name} --page"
    )


def test_every_recipe_was_killed_and_none_differed():
    kept = json.loads(kill_test.KEPT.read_text(encoding="utf-8"))["recipes"]
    assert set(kept) == {path.stem for path in (CONFIGS / "recipe").glob("*.yaml")}
    assert all(found["kills"] >= 3 and not found["differing"] for found in kept.values())
    assert sum(found["kills"] for found in kept.values()) >= 100


def test_every_method_was_tried_on_two_ranks():
    cases = json.loads(rank_equality.KEPT.read_text(encoding="utf-8"))["cases"]
    tried = {key for case in cases for key in case["keys"]}
    assert tried == set(METHODS)
    assert all(case["alike"] for case in cases)
    assert all(
        case["distance"] <= limit(case["keys"], case["moved"]) for case in cases if case["declared"]
    )
