"""Finding a standard set in a folder, or downloading it with torchvision."""

import contextlib
import io
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.names import expanded
from datamodules.source import check_labels
from foundation.errors import UserError

CONNECT_SECONDS = 10.0
Downloaded = TypeVar("Downloaded")


def existing_folder(root: str | Path) -> Path:
    """`root` as a readable folder. Raises UserError if it is none."""
    folder = expanded(root)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(
            f"data.root={root} {what}; give the folder that contains the set, or one to download "
            "it to"
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"data.root={root} cannot be read; check the permissions of the folder")
    return folder


def cache_folder() -> Path:
    """Folder of data sets if data.root is null: $XDG_CACHE_HOME/roux, else ~/.cache/roux."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "roux"


def candidates(folder: Path, names: Sequence[str]) -> list[Path]:
    """Folders that may contain a set: `folder`, its subfolders of these names, and `raw` in
    each."""
    places = []
    for base in (folder, *(folder / name for name in names)):
        places += [base, base / "raw"]
    return [place for place in places if place.is_dir()]


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where torchvision puts the cause; the error's type if
    the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextlib.contextmanager
def brief_patience() -> Iterator[None]:
    """Set a short connection timeout and hide torchvision's messages about mirrors."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def drop_empty(places: Sequence[Path]) -> None:
    """Remove folders that contain nothing but empty folders."""
    for place in places:
        if place.is_dir() and not place.is_symlink():
            drop_empty(list(place.iterdir()))
            with contextlib.suppress(OSError):  # not empty
                place.rmdir()


def fetch_set(
    make: Callable[..., Any], title: str, root: str | Path | None, looked_for: str
) -> tuple[Any, Any]:
    """(train, test) of a torchvision set: read from `root` or the cache folder, else downloaded
    there.

    make: the torchvision class, called with (folder, train=, download=).
    looked_for: what the folder must contain, for the message.

    Raises UserError if there is neither a copy nor a network.
    """
    folder = existing_folder(root) if root is not None else cache_folder()
    for place in (folder, folder.parent):
        try:
            return tuple(make(place, train=train, download=False) for train in (True, False))
        except RuntimeError:
            continue  # torchvision raises it for a set that is missing or corrupted

    def make_both(place: Path) -> tuple[Any, Any]:
        return make(place, train=True, download=True), make(place, train=False, download=True)

    return download_into(folder, make_both, title, root, looked_for)


def download_into(
    folder: Path,
    download: Callable[[Path], Downloaded],
    title: str,
    root: str | Path | None,
    looked_for: str,
) -> Downloaded:
    """What `download` gives, which writes into the folder. Raises UserError without a network, and
    leaves no empty folders behind then."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with brief_patience():
            return download(folder)
    except (OSError, RuntimeError, EOFError) as error:
        if folder.is_dir():
            drop_empty([place for place in folder.iterdir() if place not in before])
        drop_empty(missing)
        raise UserError(
            f"data.root={root or f'null ({folder})'}: no {title} there ({looked_for}), and "
            f"downloading it failed ({last_line(error)}); set data.root to a folder that contains "
            "it"
        ) from None


def pixels_of(images: Any) -> Tensor:
    """uint8 [N, C, H, W] of an array [N, H, W] or [N, H, W, C]."""
    array = np.array(images, dtype=np.uint8)
    array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(array))


def labels_of(labels: Any, where: str, classes: int) -> Tensor:
    """int64 [N] of whole numbers, each the number of a class. Raises UserError for others.

    where: the file, for the message.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"{where}: labels are {array.dtype} {list(array.shape)}; expected one whole number for "
            "each image"
        )
    found = torch.from_numpy(array.astype(np.int64))
    check_labels(where, found, classes, lowest=0)
    return found
