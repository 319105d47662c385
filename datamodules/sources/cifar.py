"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32×32 color images, read from torchvision's files or
from sheets of tiles."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources.files import check_regular
from datamodules.sources.pictures import converted
from datamodules.sources.standard import (
    existing_folder,
    fetch_set,
    labels_of,
    last_line,
    pixels_of,
)
from foundation.errors import UserError

JPEG = "cifar10_jpeg95"
LOSSLESS = "cifar10_test_lossless"
SIDE = 32
COLUMNS = 50


def read_sheet(path: Path) -> np.ndarray:
    """uint8 [tiles, 32, 32, 3]: a sheet holds tiles of 32×32 in 50 columns, row by row."""
    check_regular(path)
    try:
        with Image.open(path) as picture:
            sheet = np.asarray(converted(picture, "RGB"))
    except Exception:  # the decoders raise a dozen types for damaged files
        raise UserError(f"{path}: not a picture that can be read; fetch the file again") from None
    if sheet.shape[0] % SIDE or sheet.shape[1] != SIDE * COLUMNS:
        raise UserError(
            f"{path}: {sheet.shape[1]}×{sheet.shape[0]} pixels; expected a sheet of {COLUMNS} "
            "columns of 32×32 tiles"
        )
    tiles = sheet.reshape(-1, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2)
    return tiles.reshape(-1, SIDE, SIDE, 3)


def read_labels(path: Path, part: str) -> tuple[Tensor, list[str]]:
    """(labels int64 [N], class names) of a part from the arrays of an npz file."""
    check_regular(path)
    try:
        with np.load(path) as stored:
            labels = stored[part]
            names = stored["classes"]
    # an empty, cut or damaged archive, or one that lacks an array: each raises another exception
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be read ({last_line(error)}); expected the arrays '{part}' and "
            "'classes'"
        ) from None
    if names.ndim != 1 or len(set(names.tolist())) < len(names):
        raise UserError(f"{path}: 'classes' should be a list of different names")
    classes = [str(name) for name in names]
    return labels_of(labels, f"{path}, '{part}'", len(classes)), classes


def read_sheets(folder: Path, part: Literal["train", "test"]) -> ArraySource:
    """All sheets PART_*.jpg, .webp or .png of a folder, sorted by name, with `labels.npz`."""
    sheets: list[Path] = []
    for end in ("jpg", "webp", "png"):
        sheets += folder.glob(f"{part}_*.{end}")
    sheets.sort()
    labels, classes = read_labels(folder / "labels.npz", part)
    if not sheets:
        raise UserError(f"{folder}: no sheets {part}_*.jpg or {part}_*.webp")
    images = np.concatenate([read_sheet(path) for path in sheets])
    if len(images) != len(labels):
        raise UserError(
            f"{folder}: {len(images)} tiles but {len(labels)} labels in '{part}'; is a sheet "
            "missing?"
        )
    return ArraySource(pixels_of(images), {"label": labels}, {"label": classes})


def find_sheets(folder: Path, name: str, part: str) -> Path | None:
    """`folder`/`name` or `folder` itself, whichever has sheets of `part`; None if neither has."""
    for place in (folder / name, folder):
        if (place / "labels.npz").is_file() and any(place.glob(f"{part}_*.*")):
            return place
    return None


class CIFAR10:
    """50000 training and 10000 test images of 10 classes.

    `root`: the folder (or its parent) of sheets of tiles, or torchvision's `cifar-10-batches-py`;
    downloaded there where it has neither. torchvision's test images are always the original pixels.

    test: test sheets of tiles: `jpeg`, compressed as the training sheets, or `lossless`.
        `lossless`: the original pixels from the folder cifar10_test_lossless beside them.
    """

    def __init__(self, test: Literal["jpeg", "lossless"] = "jpeg"):
        self.test = test

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": 10}, (3, SIDE, SIDE), 50000)

    def load(self, root: str | Path | None = None) -> Splits:
        train = None
        if root is not None:
            train = find_sheets(existing_folder(root), JPEG, "train")
        if train is None:
            looked_for = f"cifar-10-batches-py, or {JPEG} with labels.npz and train_*.jpg"
            return _from_torchvision("CIFAR10", "CIFAR-10", root, looked_for)
        test = train
        if self.test == "lossless":
            test = train.parent / LOSSLESS
            if not test.is_dir():
                raise UserError(
                    f"data.source.test=lossless: no folder {LOSSLESS} in or beside data.root={root}"
                )
        return Splits(read_sheets(train, "train"), read_sheets(test, "test"))


class CIFAR100:
    """50000 training and 10000 test images of 100 classes.

    `root` is torchvision's `cifar-100-python` or its parent; it is downloaded there if missing.
    """

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": 100}, (3, SIDE, SIDE), 50000)

    def load(self, root: str | Path | None = None) -> Splits:
        return _from_torchvision("CIFAR100", "CIFAR-100", root, "cifar-100-python")


def _from_torchvision(name: str, title: str, root: str | Path | None, looked_for: str) -> Splits:
    import torchvision  # takes seconds to import, so only where it is needed

    train, test = fetch_set(getattr(torchvision.datasets, name), title, root, looked_for)

    def source(part: Any) -> ArraySource:
        classes = list(part.classes)
        labels = labels_of(part.targets, title, len(classes))
        return ArraySource(pixels_of(part.data), {"label": labels}, {"label": classes})

    return Splits(source(train), source(test))
