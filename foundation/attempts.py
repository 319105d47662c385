"""Work at the end of a run that must not cost the run: what fails is left out, and a line says
so."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from foundation.errors import first_line

T = TypeVar("T")
STRICT = False  # tests set it: there an error is an error


@dataclass
class Attempts:
    """lost: a line for each part that failed."""

    lost: list[str] = field(default_factory=list)

    def make(self, part: str, action: Callable[[], T], instead: T) -> T:
        """What the action returns; `instead` where it fails. part: its name in the line."""
        try:
            return action()
        except Exception as error:
            if STRICT:
                raise
            self.lost.append(failure_line(part, error))
            return instead

    def do(self, part: str, action: Callable[[], Any]) -> None:
        """The same for an action without a result."""
        self.make(part, action, None)


def failure_line(part: str, error: Exception) -> str:
    """`views: left out (ValueError: no pixels)`."""
    reason = first_line(error)
    name = type(error).__name__
    return f"{part}: left out ({reason if reason == name else f'{name}: {reason}'})"
