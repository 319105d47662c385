"""Files that a source may open: regular ones, found in a fixed order, with names in Unicode."""

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from datamodules.names import printable
from foundation.errors import UserError, nearest

END_BYTES = 2**15


def hidden(name: str) -> bool:
    """Whether a file or folder is not part of a data set: `.ipynb_checkpoints`, `._x.png`,
    `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def check_regular(path: str | Path) -> None:
    """Raise UserError for a link to nothing and for what is no regular file: to open a named pipe
    waits forever. A missing file passes: opening it has an error of its own."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - also called for each of many thousand files
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114
            target = os.readlink(path)  # noqa: PTH115
            raise UserError(
                printable(str(path)), f"a link to '{printable(target)}', which does not exist"
            ) from None
        return
    except OSError as error:
        raise UserError(
            printable(str(path)), f"cannot be read ({error.strerror}); expected a readable file"
        ) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise UserError(printable(str(path)), f"cannot be read ({what}); expected a regular file")


def no_such_file(path: Path) -> UserError:
    """The error for a missing file, with the nearest name beside it."""
    hint = "its folder does not exist"
    if path.parent.is_dir():
        hint = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    return UserError(f"{path}: no such file; {hint}")


def file_size(path: str) -> int:
    """Bytes of a file, -1 if it is gone: whoever reads it names it."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1


def ends_of(path: str) -> bytes:
    """The content of a small file; of a large one the beginning and the end, which has the
    checksum in most formats."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(END_BYTES)
            if len(head) < END_BYTES:
                return head
            file.seek(max(os.fstat(file.fileno()).st_size - END_BYTES, END_BYTES))
            return head + file.read(END_BYTES)
    except OSError:
        return b""


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden names. Raises UserError if it cannot be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if not hidden(entry.name))
    except OSError as error:
        raise UserError(
            printable(str(folder)), f"cannot be read ({error.strerror}); expected a readable folder"
        ) from None


def files_below(folder: Path, endings: Collection[str]) -> list[Path]:
    """What has these suffixes in a folder and its subfolders and is no folder, sorted. Links are
    followed, each folder is read once; hidden files and folders are left out."""
    found: list[Path] = []
    for inner, names in _folders(folder):
        found += [inner / name for name in names if Path(name).suffix.lower() in endings]
    return sorted(found)


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of its files) for a folder and its subfolders."""

    def refuse(error: OSError) -> None:
        raise UserError(
            printable(str(error.filename)),
            f"cannot be read ({error.strerror}); expected a readable folder",
        ) from None

    seen = set()
    for place, inner, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(place)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        if identity in seen:  # links may form a loop
            inner.clear()
            continue
        seen.add(identity)
        # sorted: which of two links to a folder is read must not depend on the disk
        inner[:] = sorted(name for name in inner if not hidden(name))
        yield Path(place), [name for name in names if not hidden(name)]
