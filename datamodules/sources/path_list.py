"""Paths of many files in one piece of memory."""

import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

BLOCK = 10_000
# of `os.fsdecode`, which takes three times as long
CODING = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


class PathList(Sequence[str]):
    """Paths as bytes, one behind the other. An array of strings takes four bytes for each character
    of the longest; a list of strings is copied into every worker process, page by page, because
    reading it changes its reference counts.

    buffer: the paths. bounds: int64 [N + 1], where each begins.
    rows: int64, which of them, in this order; None: all.
    """

    def __init__(self, buffer: bytes, bounds: np.ndarray, rows: np.ndarray | None = None):
        self.buffer = buffer
        self.bounds = bounds
        self.rows = rows
        self._status: np.ndarray | None = None

    @classmethod
    def of(cls, paths: Iterable[str | os.PathLike[str]]) -> "PathList":
        if isinstance(paths, PathList):
            return paths
        raw = [os.fsencode(path) for path in paths]
        return cls(b"".join(raw), np.cumsum([0, *map(len, raw)], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence["PathList"]) -> "PathList":
        """All paths of several lists, one behind the other."""
        whole = [part.compact() for part in parts]
        bounds = [np.zeros(1, np.int64)]
        before = 0
        for part in whole:
            bounds.append(part.bounds[1:] + before)
            before += len(part.buffer)
        return cls(b"".join(part.buffer for part in whole), np.concatenate(bounds))

    def __len__(self) -> int:
        return len(self.bounds) - 1 if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice | np.ndarray) -> "PathList": ...
    def __getitem__(self, place: int | slice | np.ndarray) -> "str | PathList":
        if isinstance(place, slice | np.ndarray):
            return PathList(self.buffer, self.bounds, self._rows(place))
        place = range(len(self))[place]
        row = place if self.rows is None else self.rows[place]
        return os.fsdecode(self.buffer[self.bounds[row] : self.bounds[row + 1]])

    def _rows(self, place: slice | np.ndarray) -> np.ndarray:
        if self.rows is not None:
            return self.rows[place]
        if isinstance(place, slice):  # not all of a million rows for a few of them
            return np.arange(*place.indices(len(self)))
        return np.arange(len(self))[place]

    def __iter__(self) -> Iterator[str]:
        return (path.decode(*CODING) for path in self.raw())

    def raw(self) -> Iterator[bytes]:
        """The paths as the system has them."""
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            rows = np.arange(start, stop) if self.rows is None else self.rows[start:stop]
            starts, stops = self.bounds[rows].tolist(), self.bounds[rows + 1].tolist()
            for first, last in zip(starts, stops, strict=True):
                yield self.buffer[first:last]

    def tolist(self) -> list[str]:
        return list(self)

    def compact(self) -> "PathList":
        """The same paths, without others in memory."""
        if self.rows is None:
            return self
        lengths = self.bounds[self.rows + 1] - self.bounds[self.rows]
        bounds = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
        return PathList(b"".join(self.raw()), bounds)

    def status(self) -> np.ndarray:
        """int64 [N, 3]: size and times (mtime, ctime, in ns) of every file, -1 for one that is
        gone. The system is asked once: a million answers take seconds."""
        if self._status is None:
            found = array("q")
            for path in self.raw():
                try:
                    status = os.stat(path)  # noqa: PTH116
                except OSError:
                    found.extend((-1, -1, -1))
                    continue
                found.extend((status.st_size, status.st_mtime_ns, status.st_ctime_ns))
            self._status = np.array(found, np.int64).reshape(-1, 3)
        return self._status
