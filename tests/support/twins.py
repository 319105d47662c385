"""A second set of methods, to see what the tests cost with twice as many: `pytest --doubled`.

A twin is a subclass that changes nothing, under a name and in a config file of its own.
"""

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from recipes.pairs import Listed, listed

SUFFIX, SWITCH = "_twin", "ROUX_DOUBLED_METHODS"


def doubled() -> bool:
    """Whether twins are among the methods that are to meet; `tests/conftest.py` sets this."""
    return SWITCH in os.environ


def original(key: str) -> str:
    """The method of which this is the twin, or itself."""
    return key.removesuffix(SUFFIX)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Gone when the process ends."""
    return tempfile.TemporaryDirectory(prefix="roux-twins-")


@cache
def twins() -> dict[str, Listed]:
    """A twin of every method, listed from a folder of configs that is made here."""
    root = Path(_folder().name)
    for key, entry in listed().items():
        file = root / entry.family / f"{key}{SUFFIX}.yaml"
        file.parent.mkdir(exist_ok=True)
        target = entry.node()["_target_"]
        text = entry.path.read_text(encoding="utf-8")
        text = text.replace(f"methods.{key}\n", f"methods.{key}{SUFFIX}\n", 1)
        file.write_text(text.replace(target, f"{__name__}.{key}{SUFFIX}"), encoding="utf-8")
    return listed(root)


def __getattr__(name: str) -> Any:
    """The class of a twin, as its config names it."""
    if not name.endswith(SUFFIX):
        raise AttributeError(name)
    return _twin_class(name)


@cache
def _twin_class(name: str) -> type:
    twin_of = get_class(listed()[original(name)].node()["_target_"])
    return type(name, (twin_of,), {"__module__": __name__})
