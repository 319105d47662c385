"""Generated pages: whether one says what its program says today."""

from itertools import zip_longest
from pathlib import Path

import pytest


def check_fresh(page: Path, text: str, command: str) -> None:
    """Fail with the first line that differs. A comparison of two long texts by pytest takes a
    minute and prints thousands of lines."""
    kept = page.read_text(encoding="utf-8")
    if kept == text:
        return
    lines = zip_longest(kept.split("\n"), text.split("\n"))
    number, (old, new) = next(pair for pair in enumerate(lines, 1) if pair[1][0] != pair[1][1])
    shown = [repr(line)[:200] for line in (old, new)]
    pytest.fail(
        f"{page.name} is stale from line {number} on: {command}\n{shown[0]}\n{shown[1]}",
        pytrace=False,
    )
