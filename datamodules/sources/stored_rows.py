"""The rows of large text files, kept in the cache folder in place of memory."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.sources.cache import kept, key_of
from datamodules.sources.coded_names import CodedNames
from datamodules.sources.columns import Columns, Rows
from datamodules.sources.files import file_size
from datamodules.sources.stored_texts import StoredTexts, digest_of
from foundation.errors import UserError

Caching = Literal["auto", "always", "never"]
LARGE = 2**22  # bytes of a file whose texts are not kept in memory
BLOCK = 10_000  # rows that are written at once
Read = tuple[int, str, Sequence[str | None]]  # line, text, label by task


def is_stored(path: Path, caching: Caching) -> bool:
    """Whether the texts of a file are kept in the cache folder."""
    if caching == "auto":
        return file_size(str(path)) >= LARGE
    return caching == "always"


def rows_of(path: Path, columns: Columns, caching: Caching) -> Rows:
    """`columns.read(path)`, whose texts stay in the cache folder if the file is large."""
    if not is_stored(path, caching):
        return columns.read(path)

    def read() -> Iterator[Read]:
        return ((line, value, labels) for line, value, labels, _ in columns.cells(path))

    rows = stored_rows(path, columns.settings, tuple(columns.tasks), read)
    if rows is None:
        return columns.read(path)
    columns.check_any(path, rows)
    return rows


def stored_rows(
    path: Path, settings: str, tasks: tuple[str, ...], read: Callable[[], Iterable[Read]]
) -> Rows | None:
    """The rows of a file, read once. None if the cache folder cannot be written.

    The entry belongs to the file's path, size and times, not to its content: to read ten gigabytes
    at every start would take longer than all the rest. A file that is written again is read again,
    even with the same content; one whose size and both times were set back is not noticed.

    settings: everything else that the rows depend on.
    """
    state = stamp(path)
    key = key_of(str(path.absolute()), state, settings)

    def make(folder: Path) -> dict[str, Any]:
        facts = write_rows(folder, tasks, read())
        if stamp(path) != state:
            raise UserError(f"{path}", "changed while it was read", "start again when it is whole")
        return facts

    entry = kept("texts", key, make)
    if entry is None:
        return None
    labels = {
        task: CodedNames(names, entry.array(f"labels_{number}.bin", np.int32))
        for number, (task, names) in enumerate(zip(tasks, entry.facts["names"], strict=True))
    }
    lines = entry.array("lines.bin", np.int64)
    return Rows(StoredTexts(entry.folder, key), dict(labels), lines)  # type: ignore[arg-type]


def stamp(path: Path) -> tuple[int, ...]:
    """Size and times of a file; empty if it is gone: whoever reads it names it."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def write_rows(folder: Path, tasks: tuple[str, ...], rows: Iterable[Read]) -> dict[str, Any]:
    """Write the files of an entry, in blocks. Returns its facts."""
    known: list[dict[str | None, int]] = [{None: -1} for _ in tasks]
    files = ["texts.bin", "bounds.bin", "hashes.bin", "lines.bin"]
    files += [f"labels_{number}.bin" for number in range(len(tasks))]
    written = 0
    opened = [(folder / name).open("wb") for name in files]
    try:
        texts, bounds, hashes, lines, *labels = opened
        np.zeros(1, np.int64).tofile(bounds)
        source = iter(rows)
        while block := list(islice(source, BLOCK)):
            raw = [value.encode("utf-8", "surrogatepass") for _, value, _ in block]
            texts.write(b"".join(piece + b"\0" for piece in raw))
            ends = written + np.cumsum([len(piece) + 1 for piece in raw])
            ends.astype(np.int64).tofile(bounds)
            written = int(ends[-1])
            np.array([digest_of(value) for _, value, _ in block], np.uint64).tofile(hashes)
            np.array([line for line, _, _ in block], np.int64).tofile(lines)
            for task, file in enumerate(labels):
                numbers = known[task]
                names = (each[task] for _, _, each in block)
                # None is there from the start: the first name has number 0
                codes = [numbers.setdefault(name, len(numbers) - 1) for name in names]
                np.array(codes, np.int32).tofile(file)
    finally:
        for file in opened:
            file.close()
    return {"names": [[name for name in numbers if name is not None] for numbers in known]}
