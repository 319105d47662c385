"""The exception for a user's mistake: printed as one line with a non-zero exit code, never as a
traceback."""

import difflib
from collections.abc import Iterable, Sequence

LISTED = 12  # names that a message lists
NEAREST = 3  # of more than that, the nearest
ALIKE = 0.4  # similarity of names that a message lists as the nearest


class UserError(Exception):
    """A mistake that the user can fix. Its text is one line, `key: problem; remedy`.

    key: the setting, as the user writes it (`data.root`, `data.root=nowhere`).
    problem: what was found, and what was expected.
    remedy: what to write instead, if that is not evident.

    `UserError("text")` is a line without a setting.
    """

    printed = False  # whether the user has seen it already

    def __init__(self, key: str, problem: str = "", remedy: str = ""):
        super().__init__(key, problem, remedy)
        self.key = key if problem else ""
        self.problem = problem or key
        self.remedy = remedy

    def __str__(self) -> str:
        line = f"{self.key}: {self.problem}" if self.key else self.problem
        return f"{line}; {self.remedy}" if self.remedy else line

    @property
    def errors(self) -> "list[UserError]":
        """The single mistakes; for an ordinary error the error itself."""
        return [self]

    def about(self, key: str) -> "UserError":
        """The same mistake, for another key."""
        return UserError(key, self.problem, self.remedy)

    def within(self, place: str) -> "UserError":
        """The same mistake in a part of the command: `stages.probe: KEY: …`."""
        key = f"{place}: {self.key}" if self.key else place
        return UserError(key, self.problem, self.remedy)


class ConfigErrors(UserError):
    """Several mistakes, one a line; equal ones are listed once."""

    def __init__(self, errors: Iterable[UserError | str]):
        single = [UserError(e) if isinstance(e, str) else e for e in errors]
        by_line: dict[str, UserError] = {}
        for error in single:
            by_line.setdefault(str(error), error)
        super().__init__("\n".join(by_line))
        # exceptions are pickled by their arguments: a job may run in another process
        self.args = (list(by_line.values()),)
        self._errors = list(by_line.values())

    @property
    def errors(self) -> list[UserError]:
        return self._errors


def raise_all(errors: Sequence[UserError]) -> None:
    """Raise `ConfigErrors` if there are any."""
    if errors:
        raise ConfigErrors(errors)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without trailing punctuation; its class, if empty."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message on one line, without its full stop."""
    text = " ".join(str(error).split())
    return text.split(". ")[0].rstrip(".!")


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The closest of the known names, None if none is close. cutoff: similarity in [0, 1]."""
    best = ranked_names(name, known)[:1]
    return best[0] if best and similarity(name, best[0]) >= cutoff else None


def ranked_names(name: str, known: Iterable[str]) -> list[str]:
    """The known names, the most similar first."""
    return sorted(map(str, known), key=lambda other: (-similarity(name, other), other))


def similarity(name: str, other: str) -> float:
    """In [0, 1], whatever the case of the letters. A beginning or ending of keys, paths or file
    names that both share makes them no closer: `notes.py` is not like `setup.py`, nor
    `evaluate.zzz` like `evaluate.attack`."""
    one, two = str(name).lower(), str(other).lower()
    begin = shared_sections(one, two)
    if begin < min(len(one), len(two)):
        one, two = one[begin:], two[begin:]
    stem, dot, ending = one.rpartition(".")
    if stem and two.endswith(dot + ending) and len(two) > len(dot + ending):
        one, two = stem, two.removesuffix(dot + ending)
    return difflib.SequenceMatcher(None, two, one).ratio()


def shared_sections(one: str, two: str) -> int:
    """The length of the common beginning of two keys or paths, up to its last `.` or `/`."""
    begin = 0
    for i, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            break
        if a in "./":
            begin = i + 1
    return begin


def did_you_mean(name: str | None) -> str:
    """A question for a message; empty if there is no name."""
    return f"did you mean '{name}'?" if name else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` with the closest of the known names; if none is close, all of a few names
    or the nearest three of many."""
    names = sorted(set(map(str, known)))
    close = nearest_name(name, names)
    return did_you_mean(close) or listed(name, names)


def listed(name: str, known: Iterable[str]) -> str:
    """`known: a, b, c`, for a message that stays short: of many names the nearest three, or the
    first three where none has anything of the name."""
    names = sorted(set(map(str, known)))
    if len(names) <= LISTED:
        return f"known: {', '.join(names) or 'none'}"
    ranked = ranked_names(name, names)[:NEAREST]
    near = [other for other in ranked if similarity(name, other) >= ALIKE]
    if near:
        return f"the nearest of {len(names)}: {', '.join(near)}"
    return f"known: {', '.join(names[:NEAREST])} and {len(names) - NEAREST} more"
