"""The files below folders; of large sets the list is kept in the cache folder.

A list is used again as long as every folder in it has the times it had: adding, removing and
renaming a file change those of its folder. Not noticed are files whose content changes, which their
size and times tell (`FolderSource.signature`, `check_pictures`), and changes on file systems that
do not keep the times of folders.
"""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.names import printable
from datamodules.sources.cache import Entry, kept, key_of, known
from datamodules.sources.files import check_regular, hidden
from datamodules.sources.path_list import PathList
from foundation.errors import UserError

MANY = 50_000  # files whose list is kept
QUIET = 2.0  # seconds since the last change of a folder: its time may not tell a later one


@dataclass
class Listing:
    """paths: all files, folder by folder, sorted within each.
    counts: how many there are below each folder.
    links: rows of paths that are links to files: their targets may go.
    places: every folder that was read. states: int64 [D, 3], its number on the disk and its times.
    """

    paths: PathList
    counts: np.ndarray
    links: np.ndarray
    places: PathList
    states: np.ndarray


@dataclass
class Found:
    """What a walk collects."""

    paths: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    places: list[str] = field(default_factory=list)
    states: list[tuple[int, int, int]] = field(default_factory=list)


def listed(folders: Sequence[Path], endings: Collection[str]) -> Listing:
    """The files with these suffixes below each folder. Links are followed, each folder is read once
    below each; hidden files and folders are left out. Raises UserError for a file that is no
    regular one, or a folder that cannot be read."""
    key = key_of(
        [str(folder.absolute()) for folder in folders], [*map(str, folders)], sorted(endings)
    )
    entry = known("listings", key)
    if entry is not None:
        old = read(entry)
        if old is not None and unchanged(old):
            return old
    begun = time.time()
    new = walked(folders, endings)
    changed = new.states[:, 1:].max(initial=0) / 1e9
    if len(new.paths) >= MANY and changed < begun - QUIET:
        kept("listings", key, lambda folder: write(folder, new), again=True)
    return new


# -- walking ---------------------------------------------------------------------------------------
def walked(folders: Sequence[Path], endings: Collection[str]) -> Listing:
    found = Found()
    counts: list[int] = []
    links: list[int] = []
    buffers: list[PathList] = []
    for folder in folders:
        found.paths, found.links = [], set()
        below(str(folder), endings, found)
        # as paths are sorted: by their parts, a separator comes before every character
        found.paths.sort(key=lambda path: path.replace(os.sep, "\0"))
        before = sum(counts)
        links += [before + row for row, path in enumerate(found.paths) if path in found.links]
        counts.append(len(found.paths))
        buffers.append(PathList.of(found.paths))
    states = np.array(found.states, np.int64).reshape(-1, 3)
    sizes, rows = np.array(counts, np.int64), np.array(links, np.int64)
    return Listing(PathList.joined(buffers), sizes, rows, PathList.of(found.places), states)


def below(folder: str, endings: Collection[str], found: Found) -> None:
    """Add the files below one folder."""
    seen = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        status, entries = contents(place)
        identity = (status.st_dev, status.st_ino)
        if identity in seen:  # links may form a loop
            continue
        seen.add(identity)
        found.places.append(place)
        found.states.append(state(status))
        inner = []
        prefix = "" if place == "." else os.path.join(place, "")  # noqa: PTH118
        for entry in entries:
            if is_folder(entry):
                inner.append(prefix + entry.name)
            elif os.path.splitext(entry.name)[1].lower() in endings:  # noqa: PTH122
                found.paths.append(prefix + entry.name)
                if not entry.is_file(follow_symlinks=False):
                    check_regular(prefix + entry.name)
                    found.links.add(prefix + entry.name)
        # sorted: which of two links to a folder is read must not depend on the disk
        waiting += sorted(inner, reverse=True)


def is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed
        return False


def contents(place: str) -> tuple[os.stat_result, list[os.DirEntry[str]]]:
    """The state of a folder, taken before it is read, and what is in it."""
    try:
        status = os.stat(place)  # noqa: PTH116
        with os.scandir(place) as entries:
            return status, [entry for entry in entries if not hidden(entry.name)]
    except OSError as error:
        raise UserError(
            printable(place), f"cannot be read ({error.strerror}); expected a readable folder"
        ) from None


def state(status: os.stat_result) -> tuple[int, int, int]:
    # ctime: tools that copy folders set their mtime
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


# -- keeping ---------------------------------------------------------------------------------------
def unchanged(listing: Listing) -> bool:
    """Whether every folder is as it was, and what the links name is there. Raises UserError for
    a link to nothing."""
    for place, before in zip(listing.places.raw(), listing.states.tolist(), strict=True):
        try:
            if list(state(os.stat(place))) != before:  # noqa: PTH116
                return False
        except OSError:
            return False
    for path in listing.paths[listing.links]:
        check_regular(path)
    return True


def lists(listing: Listing) -> Iterator[tuple[str, PathList]]:
    return iter([("paths", listing.paths), ("places", listing.places)])


def write(folder: Path, listing: Listing) -> dict[str, Any]:
    for name, paths in lists(listing):
        (folder / f"{name}.bin").write_bytes(paths.buffer)
        paths.bounds.astype(np.int64).tofile(folder / f"{name}_bounds.bin")
    for name in ("counts", "links", "states"):
        getattr(listing, name).tofile(folder / f"{name}.bin")
    return {}


def read(entry: Entry) -> Listing | None:
    """The list of an entry; None if another process is replacing it."""
    try:
        paths, places = (
            PathList(
                (entry.folder / f"{name}.bin").read_bytes(),
                np.fromfile(entry.folder / f"{name}_bounds.bin", np.int64),
            )
            for name in ("paths", "places")
        )
        counts, links, states = (
            np.fromfile(entry.folder / f"{name}.bin", np.int64)
            for name in ("counts", "links", "states")
        )
    except OSError:
        return None
    return Listing(paths, counts, links, places, states.reshape(-1, 3))
