"""Files that do not exist yet when a run is planned: an earlier stage will write them.

A method that reads such a file while the network is built for the plan leaves it out:

    if not is_awaited(self.load):
        self.read(self.load)
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_AWAITED: ContextVar[frozenset[Path]] = ContextVar("awaited", default=frozenset())


@contextmanager
def awaiting(paths: Iterable[Path]) -> Iterator[None]:
    """Inside it these files are awaited."""
    token = _AWAITED.set(_AWAITED.get() | frozenset(map(Path, paths)))
    try:
        yield
    finally:
        _AWAITED.reset(token)


def is_awaited(path: str | Path | None) -> bool:
    """Whether an earlier stage will write this file."""
    return path is not None and Path(path) in _AWAITED.get()
