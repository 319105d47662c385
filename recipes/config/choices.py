"""What is wrong with the choices of groups as a command writes them, before Hydra composes: Hydra
takes the last of two recipes and drops `none` and repetitions without a word."""

from collections.abc import Sequence
from pathlib import Path

from foundation.errors import UserError
from recipes.config.groups import SINGLE, from_hydra
from recipes.config.keys import key_of, value_of

NONE = "none"
# a later choice of any other group wins, as of a value: commands are written by appending
ONCE = ("recipe",)


def choice_errors(overrides: Sequence[str], root: Path) -> list[UserError]:
    """root: the folder of the groups."""
    made: dict[str, list[str]] = {}
    for text in overrides:
        key = key_of(text)
        if "=" in text and not text.startswith("+") and (root / key).is_dir():
            made.setdefault(key, []).append(value_of(text).strip())
    errors: list[UserError] = []
    for key, values in made.items():
        group = from_hydra(key)
        different = list(dict.fromkeys(values))
        if key in ONCE and len(different) > 1:
            problem = f"is chosen twice, {' and '.join(different)}"
            errors.append(UserError(group, problem, "leave one out"))
        for value in different:
            errors += list_errors(group, value)
    return errors


def list_errors(group: str, value: str) -> list[UserError]:
    """Errors of a list of choices, `[a,b]`."""
    if not (value.startswith("[") and value.endswith("]")):
        return []
    names = [name.strip().strip("'\"") for name in value[1:-1].split(",")]
    key = f"{group}={value}"
    others = [name for name in dict.fromkeys(names) if name != NONE]
    remedy = f"write {group}={written(others)}"
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        return [UserError(key, f"names '{twice}' twice", remedy)]
    if NONE in names and others:
        return [UserError(key, f"'{NONE}' stands for no other in the list", remedy)]
    return []


def written(names: Sequence[str]) -> str:
    if not names:
        return NONE
    return names[0] if len(names) == 1 else f"[{','.join(names)}]"


def is_list_of_choices(override: str) -> bool:
    """Whether a list is given where a group takes one choice."""
    return key_of(override) in SINGLE and value_of(override).lstrip().startswith("[")
