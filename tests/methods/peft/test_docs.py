from pathlib import Path

import pytest

from methods.peft.costs import table

PAGE = Path(__file__).parents[3] / "docs" / "peft.md"


@pytest.mark.slow
def test_the_table_of_costs_is_what_surgery_leaves():
    page = PAGE.read_text(encoding="utf-8")
    for line in table():
        assert line in page, "stale: python -m methods.peft.costs"
