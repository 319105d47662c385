"""The README names everything a user can choose."""

from pathlib import Path

import pytest

from recipes.config.groups import CONFIGS, families, options

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
CHOICES = [
    (group, name) for group in ("recipe", *families()) for name in options(group) if name != "none"
]


@pytest.mark.parametrize(("group", "name"), CHOICES, ids="-".join)
def test_every_recipe_and_method_is_in_a_table(group, name):
    assert f"| `{name}` |" in README, f"{group}={name} has no row in a table of README.md"


@pytest.mark.parametrize("name", [n for n in options("data") if not n.startswith("_")])
def test_every_data_set_is_named(name):
    assert f"`{name}`" in README


def test_the_configs_folder_is_the_one_that_is_read():
    assert CONFIGS.name == "configs" and len(CHOICES) > 15
