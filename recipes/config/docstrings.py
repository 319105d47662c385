"""The settings of a class, read from its docstring, where each stands on a line of its own:

    name: meaning, unit, range; origin of the default

A line that continues another is indented. The same text checks the docstring against the
constructor, feeds `--help methods.NAME` and is the comment behind the key in the config file, so it
is written once.
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

from recipes.config.signatures import signature

SETTING = re.compile(r"([a-z_]\w*): (\S.*)", re.DOTALL)
SENTENCE_END = re.compile(r"(?<!e\.g)(?<!et al)\. ")
CLAUSE_END = re.compile(r"; (?![^(]*\))")  # not inside parentheses


def settings(target: Callable[..., Any]) -> dict[str, str]:
    """The text of each argument of a target, in the order of its constructor.

    A subclass need not repeat what the docstring of a base says: bases come first, and the nearest
    class wins."""
    owners = reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]
    found: dict[str, str] = {}
    for owner in owners:
        found |= parse_settings(own_docstring(owner))
    return {name: found[name] for name in signature(target).arguments if name in found}


def parse_settings(docstring: str) -> dict[str, str]:
    """The settings of one docstring: its paragraphs of `name: text` items."""
    found: dict[str, str] = {}
    for items in paragraphs(docstring):
        found |= settings_of(items)
    return found


def prose(target: Callable[..., Any]) -> list[str]:
    """The other paragraphs of a target's own docstring, each on one line."""
    groups = paragraphs(own_docstring(target))
    return [" ".join(items) for items in groups if not settings_of(items)]


def paragraphs(docstring: str) -> list[list[str]]:
    """The items of every paragraph: a line at the margin begins one, indented lines continue it."""
    found: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        items: list[str] = []
        for line in paragraph.splitlines():
            if items and line.startswith(" "):
                items[-1] += " " + line.strip()
            elif line.strip():
                items.append(line.strip())
        if items:
            found.append(items)
    return found


def settings_of(items: list[str]) -> dict[str, str]:
    """The items as settings, none where one of them is not `name: text`."""
    matches = [SETTING.fullmatch(item) for item in items]
    if not all(matches):
        return {}
    return {match[1]: match[2] for match in matches if match}


def own_docstring(target: Any) -> str:
    """The docstring of the object itself, not that of a base; empty where a dataclass made it."""
    text = vars(target).get("__doc__") if inspect.isclass(target) else target.__doc__
    made = f"{getattr(target, '__name__', '')}("  # dataclasses write the signature
    return text if text and not text.startswith(made) else ""


def brief(text: str, width: int) -> str:
    """The first sentence of a setting's text, or as many of its clauses, separated by semicolons,
    as fit into the width; the first clause always."""
    sentence = SENTENCE_END.split(text)[0].removesuffix(".")
    first, *others = CLAUSE_END.split(sentence)
    for clause in others:
        if len(f"{first}; {clause}") > width:
            break
        first = f"{first}; {clause}"
    return first
