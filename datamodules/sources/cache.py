"""Entries of the cache folder: made once, shared by processes and runs, made again where damaged.

An entry is a folder of files and a header. It is made under another name and renamed when it is
complete, so that a reader never sees a part of it.
"""

import contextlib
import functools
import hashlib
import json
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.names import printable
from datamodules.sources.files import ends_of
from datamodules.sources.standard import cache_folder
from foundation.files import os_reason, sync_folder

try:
    import fcntl
except ImportError:  # a system without locks of files: two processes may do the same work
    fcntl = None  # type: ignore[assignment]

VERSION = 1  # of what the files of an entry mean
HEADER = "entry.json"
PART = ".part"  # ending of an entry that is being made


@dataclass(frozen=True)
class Entry:
    """folder: has the files. facts: what their maker noted, in JSON's types."""

    folder: Path
    facts: dict[str, Any]

    def array(self, name: str, dtype: Any) -> np.ndarray:
        return mapped(self.folder / name, dtype)


def mapped(path: Path, dtype: Any) -> np.ndarray:
    """The numbers of a file, read where they are touched."""
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, dtype)
    # "c": torch warns of arrays that cannot be written. Nothing is ever written to the file.
    return np.memmap(path, dtype=dtype, mode="c")


def release(array: np.ndarray) -> None:
    """Give back the memory of a mapped file, which is read again where it is touched: a pass over
    all of it would count as memory of the process."""
    pages = getattr(array, "_mmap", None)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def key_of(*parts: object) -> str:
    """The name of an entry: a digest of what it is made from."""
    text = repr(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def known(kind: str, key: str) -> Entry | None:
    """The entry `key` of a kind, None if there is none. An unusable one is reported once."""
    place = cache_folder() / kind / key
    entry, problem = look(place)
    if problem:
        say(f"{printable(str(place))}: {problem}; it is made again")
    return entry


def kept(
    kind: str, key: str, make: Callable[[Path], dict[str, Any]], again: bool = False
) -> Entry | None:
    """The entry `key` of a kind, made if there is none. If the cache folder cannot be written, a
    warning is printed once, and the result is None.

    make: writes the files into a folder, and returns the facts.
    again: make it in any case.
    """
    place = cache_folder() / kind / key
    entry = None if again else known(kind, key)
    if entry is not None:
        return entry
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place) as alone:
            # another process may have made it meanwhile
            entry = None if again else look(place)[0]
            return entry or made(place, make, alone, again)
    except OSError as error:
        say(
            f"{printable(str(cache_folder()))}: cannot be written ({os_reason(error)}); large sets "
            "are read again at every start"
        )
        return None


@functools.cache
def say(line: str) -> None:
    """Print a line, once in a process."""
    print(line, file=sys.stderr)


def look(place: Path) -> tuple[Entry | None, str]:
    """The entry at a place; None and why it cannot be used, which is empty if there is none.

    Noticed are other sizes of the files, and other contents at their beginning and end.
    """
    try:
        header = json.loads((place / HEADER).read_text(encoding="utf-8"))
        version, facts, files = header["version"], header["facts"], header["files"]
        if version != VERSION:
            return None, f"was written by another version ({version}, expected {VERSION})"
        for name, state in files.items():
            if state != state_of(place / name):
                return None, f"is damaged ('{name}' is not as it was written)"
        return Entry(place, dict(facts)), ""
    except (FileNotFoundError, NotADirectoryError):
        return None, "is damaged (it has no header)" if place.is_dir() else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, "is damaged (its header cannot be read)"


def state_of(path: Path) -> list[Any]:
    size = path.stat().st_size if path.is_file() else -1
    return [size, hashlib.blake2b(ends_of(str(path)), digest_size=8).hexdigest()]


# -- making ----------------------------------------------------------------------------------------
@contextlib.contextmanager
def locked(place: Path) -> Iterator[bool]:
    """Wait until no other process makes this entry. Gives whether the lock is held: some file
    systems have none."""
    if fcntl is None:
        yield False
        return
    with contextlib.ExitStack() as stack:
        held = False
        with contextlib.suppress(OSError):
            file = stack.enter_context(place.with_suffix(".lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, however that ends
            held = True
        yield held


def made(place: Path, make: Callable[[Path], dict[str, Any]], alone: bool, again: bool) -> Entry:
    if alone:  # what a killed process has left
        for rest in place.parent.glob(f".{place.name}.*{PART}"):
            shutil.rmtree(rest, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=PART, dir=place.parent))
    try:
        facts = make(part)
        files = sorted(part.iterdir())
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        states = {path.name: state_of(path) for path in files}
        header = {"version": VERSION, "facts": facts, "files": states}
        (part / HEADER).write_text(json.dumps(header), encoding="utf-8")
        publish(part, place, again)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    entry, problem = look(place)
    if entry is None:
        raise OSError(f"{place} {problem or 'is gone'}")
    return entry


def publish(part: Path, place: Path, again: bool) -> None:
    """Give a complete entry its name. One that another process has made meanwhile stays,
    unless it is made again."""
    try:
        part.rename(place)
    except OSError:
        if not again and look(place)[0] is not None:
            return
        with tempfile.TemporaryDirectory(dir=place.parent, suffix=PART) as old:
            place.rename(Path(old) / "old")
            part.rename(place)
    sync_folder(place.parent)
