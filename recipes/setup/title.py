"""What a run is called: its recipe, and where the command chose other methods, these too."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from recipes.config.groups import CONFIGS

NONE = "none"
NOT_METHODS = ("recipe", "data")


def run_title(config: Mapping[str, Any]) -> str:
    """`fixmatch on digits`."""
    data = (config.get("chosen") or {}).get("data") or "data"
    return f"{recipe_title(config)} on {data}"


def recipe_title(config: Mapping[str, Any]) -> str:
    """`fixmatch`, or `fixmatch, semi_supervised=uda`."""
    chosen = config.get("chosen") or {}
    name = str(chosen.get("recipe") or "recipe")
    changes = [f"{group}={choice}" for group, choice, _ in other_choices(config)]
    return ", ".join([name, *changes])


def replaced_methods(config: Mapping[str, Any]) -> Iterator[str]:
    """A line for each method of the recipe that is not part of the run."""
    name = (config.get("chosen") or {}).get("recipe")
    for group, choice, own in other_choices(config):
        gone = [method for method in names(own) if method not in names(choice)]
        if gone:
            verb = "leaves out" if choice == NONE else "replaces"
            yield f"{group}={choice} {verb} {' and '.join(gone)} of recipe={name}"


def other_choices(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(group, what was chosen of it, what the recipe chooses) of each family where they differ."""
    chosen = config.get("chosen") or {}
    own = own_choices(str(chosen.get("recipe")))
    if own is None:
        return
    for group in chosen:
        here = str(chosen[group])
        there = own.get(str(group), NONE)
        if group not in NOT_METHODS and sorted(names(here)) != sorted(names(there)):
            yield str(group), here, there


def names(choice: str) -> list[str]:
    """The methods of a choice, `a` or `[a,b]`."""
    listed = [name.strip().strip("'\"") for name in choice.strip("[]").split(",")]
    return [name for name in listed if name and name != NONE]


def own_choices(recipe: str) -> dict[str, str] | None:
    """What a recipe's file chooses by group; None for a recipe that is not one of ours."""
    path = CONFIGS / "recipe" / f"{recipe}.yaml"
    if not path.is_file():
        return None
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    found: dict[str, str] = {}
    for entry in tree.get("defaults", ()):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            group = str(key).removeprefix("override ").lstrip("/")
            text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
            found[group] = text
    return found
