"""The one exception for a user's mistake: it reaches the user as one line and a non-zero exit,
never as a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. The message is one line: where, what was found, what was
    expected."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest of the known names, or all of them where none is close."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}"
