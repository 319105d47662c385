"""Texts that stay in a file and are read when they are asked for.

In an entry of the cache, `texts.bin` has the texts one behind the other in UTF-8, each followed by
one zero byte, and `bounds.bin` the place where each begins. The file of the user is not read again:
its quotes and its encoding would have to be undone for every text.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from datamodules.sources.cache import mapped

BLOCK = 10_000  # texts that are read at once
GAP = 2**20  # bytes between texts that are read along with them


class StoredTexts(Sequence[str]):
    """Texts of an entry.

    folder: of the entry. key: its name.
    rows: int64, which texts, in this order; None: all.
    whole: texts of the same entry. Their maps are shared: a page in two maps of a process counts
        twice in its memory.
    """

    bounds: np.ndarray
    hashes: np.ndarray

    def __init__(
        self,
        folder: Path,
        key: str,
        rows: np.ndarray | None = None,
        whole: "StoredTexts | None" = None,
    ):
        self.folder = folder
        self.key = key
        self.rows = rows
        if whole is None:
            self._open()
        else:
            self.bounds, self.hashes = whole.bounds, whole.hashes

    def _open(self) -> None:
        self.bounds = mapped(self.folder / "bounds.bin", np.int64)
        self.hashes = mapped(self.folder / "hashes.bin", np.uint64)

    # a worker process that is not forked maps the files itself
    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "key": self.key, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.bounds) - 1 if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        here = range(len(self))[place]
        if isinstance(here, int):
            return next(self._read(range(here, here + 1)))
        return list(self._read(here))

    def __iter__(self) -> Iterator[str]:
        return self._read(range(len(self)))

    def _read(self, places: range) -> Iterator[str]:
        return (text.decode("utf-8", "surrogatepass") for text in self.raw(places))

    def raw(self, places: range) -> Iterator[bytes]:
        """The texts at these places in UTF-8."""
        with (self.folder / "texts.bin").open("rb") as file:
            for start in range(0, len(places), BLOCK):
                some = places[start : start + BLOCK]
                rows = np.arange(some.start, some.stop, some.step)
                rows = rows if self.rows is None else self.rows[rows]
                yield from texts_at(file, self.bounds[rows], self.bounds[rows + 1] - 1)

    def packed(self, places: range) -> bytes:
        """The texts at these places in UTF-8, a zero byte between each two. Neighbors lie so in the
        file, and are one piece."""
        rows = np.arange(places.start, places.stop, places.step)
        rows = rows if self.rows is None else self.rows[rows]
        begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        ends = np.flatnonzero(np.diff(rows, append=-2) != 1)
        with (self.folder / "texts.bin").open("rb") as file:
            pieces = texts_at(file, self.bounds[rows[begins]], self.bounds[rows[ends] + 1] - 1)
            return b"\0".join(pieces)

    def taken(self, rows: np.ndarray) -> "StoredTexts":
        """The texts at these places."""
        rows = rows if self.rows is None else self.rows[rows]
        return StoredTexts(self.folder, self.key, rows, self)

    @property
    def identity(self) -> str:
        """The same for the same texts in the same order."""
        if self.rows is None:
            return self.key
        return f"{self.key} {hashlib.blake2b(self.rows.tobytes(), digest_size=16).hexdigest()}"

    @property
    def size(self) -> int:
        """Bytes of all texts."""
        if self.rows is None:
            return int(self.bounds[-1]) - len(self)
        return int((self.bounds[self.rows + 1] - self.bounds[self.rows] - 1).sum())

    def digests(self) -> np.ndarray:
        """uint64 [N]: equal for equal texts, and rarely for others."""
        return np.asarray(self.hashes if self.rows is None else self.hashes[self.rows])


class JoinedTexts(Sequence[str]):
    """The texts of several sequences, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[str]]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, self.parts)]).tolist()

    def __len__(self) -> int:
        return self.starts[-1]  # type: ignore[no-any-return]

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        here = range(len(self))[place]
        if isinstance(here, int):
            return self[here : here + 1][0]
        found: list[str] = []
        for part, start, stop in zip(self.parts, self.starts, self.starts[1:], strict=False):
            # the first of the places in this part, and the first behind it
            first = max(-(-(start - here.start) // here.step), 0)
            behind = max(-(-(stop - here.start) // here.step), 0)
            inside = here[first:behind]
            found += part[inside.start - start : inside.stop - start : here.step] if inside else []
        return found

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            yield from part

    @property
    def identity(self) -> str:
        return " ".join(identity_of(part) for part in self.parts)

    @property
    def size(self) -> int:
        return sum(size_of(part) for part in self.parts)

    def digests(self) -> np.ndarray:
        return np.concatenate([digests_of(part) for part in self.parts])


Stored = StoredTexts | JoinedTexts


def texts_at(file: Any, starts: np.ndarray, stops: np.ndarray) -> Iterator[bytes]:
    """The bytes between these places of a file: in one piece where they lie close together."""
    if not len(starts):
        return
    first, last = int(starts.min()), int(stops.max())
    pairs = zip(starts.tolist(), stops.tolist(), strict=True)
    if last - first <= 4 * int((stops - starts).sum()) + GAP:
        file.seek(first)
        piece = file.read(last - first)
        for start, stop in pairs:
            yield piece[start - first : stop - first]
        return
    for start, stop in pairs:
        file.seek(start)
        yield file.read(stop - start)


# -- of texts in memory as well --------------------------------------------------------------------
def joined(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """All texts: in memory if they all are there."""
    if not any(isinstance(part, Stored) for part in parts):
        return [text for part in parts for text in part]
    flat: list[Sequence[str]] = []
    for part in parts:
        flat += part.parts if isinstance(part, JoinedTexts) else [part]
    return JoinedTexts(flat)


def digest_of(text: str) -> int:
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def digests_of(texts: Sequence[str]) -> np.ndarray:
    if isinstance(texts, Stored):
        return texts.digests()
    return np.fromiter((digest_of(text) for text in texts), np.uint64, len(texts))


def identity_of(texts: Sequence[str]) -> str:
    if isinstance(texts, Stored):
        return texts.identity
    state = hashlib.blake2b(digest_size=16)
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()


def size_of(texts: Sequence[str]) -> int:
    """Bytes of texts in UTF-8."""
    if isinstance(texts, Stored):
        return texts.size
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
