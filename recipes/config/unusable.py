"""Values that no setting can use, whatever its range: one rule for all settings.

A number that is NaN, infinite or beyond 64 bits passes most ranges (`inf` is above 0) and fails
only inside torch, or never. A text with a NUL byte is no path and no name. A class that can use an
infinite number says so: `Annotated[float, Field(allow_inf_nan=True)]`.
"""

import math
import os
from collections.abc import Iterator
from typing import Any, get_args

LARGEST = 2**63 - 1
LONGEST_NAME = 255  # bytes of one name, on the usual file systems
LONGEST_PATH = 4000  # of Linux' 4096, with room for the files in a folder
LONGEST_SHOWN = 60


def unusable(value: Any, annotation: Any = None) -> str:
    """Why no setting can use a value or one of its entries, as `inf (not finite)`; empty if one
    can."""
    finite = not allows_infinity(annotation)
    for entry in entries(value):
        if reason := reason_against(entry, finite):
            return f"{shown(entry)} ({reason})"
    return ""


def overlong(value: Any) -> str:
    """Why no file, folder or model can have a text as its name or path; empty if one can.

    Looking for such a path raises an OSError."""
    for text in entries(value):
        if not isinstance(text, str):
            continue
        longest = max(len(os.fsencode(name)) for name in text.split("/"))
        if longest > LONGEST_NAME:
            return f"{shown(text)} (a name of {longest} bytes, expected at most {LONGEST_NAME})"
        size = len(os.fsencode(text))
        if size > LONGEST_PATH:
            return f"{shown(text)} ({size} bytes, expected at most {LONGEST_PATH})"
    return ""


def reason_against(value: Any, finite: bool) -> str:
    if isinstance(value, float) and finite and not math.isfinite(value):
        return "not finite"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "beyond 64 bits"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL byte"
    return ""


def entries(value: Any) -> Iterator[Any]:
    """The values inside mappings and lists; any other value itself."""
    if isinstance(value, dict):
        for child in value.values():
            yield from entries(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from entries(child)
    else:
        yield value


def allows_infinity(annotation: Any) -> bool:
    """Whether an annotation or a part of it has `Field(allow_inf_nan=True)`."""
    for part in getattr(annotation, "__metadata__", ()):
        rules = [part, *getattr(part, "metadata", ())]
        if any(getattr(rule, "allow_inf_nan", False) for rule in rules):
            return True
    return any(allows_infinity(part) for part in get_args(annotation))


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
