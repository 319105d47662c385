"""Images in folders: ROOT/train/CLASS/*.png and ROOT/test/CLASS/*.png, or ROOT/CLASS/*.png with a
share held out for test."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from datamodules.names import is_unicode, printable
from datamodules.source import DataInfo, Kind, Source, Splits
from datamodules.sources.files import (
    check_regular,
    ends_of,
    entries,
    file_size,
    files_below,
)
from datamodules.sources.pictures import ENDINGS, check_pictures, read_picture
from datamodules.sources.standard import existing_folder
from datamodules.splits import class_counts, take_per_class, validation_counts
from foundation.errors import UserError, nearest
from foundation.randomness import generator
from foundation.types import Count

Check = Literal["all", "evaluation", "none"]
SIGNED_FILES = 1000  # files of a set whose contents are part of its fingerprint
# Names of the folders of a divided set, in any case -> the part.
PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}


class FolderSource(Source):
    """Image files, decoded when fetched: scaled to cover size × size (bicubic), center-cropped.

    root: folder from which the files are named in a fingerprint; the same set may be moved.
    """

    kind: ClassVar[Kind] = "image"
    workers: ClassVar[bool] = True

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        names: Sequence[str],
        size: int,
        channels: int,
        root: Path | None = None,
    ):
        # one array instead of a list of strings: touching reference counts of a list would copy
        # its memory pages in every worker process
        self.paths = np.array([str(path) for path in paths])
        self.targets = {"label": labels}
        self.classes = {"label": list(names)}
        self.size = size
        self.mode = "RGB" if channels == 3 else "L"
        self.root = f"{root}/" if root is not None else ""

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, path: str) -> Tensor:
        """uint8 [C, size, size] of one file."""
        try:
            return read_picture(path, (self.size, self.size), self.mode)
        except UserError:
            if Path(path).exists():
                raise
            raise UserError(
                f"{printable(path)}: no longer exists; restore the file, then resume with "
                "resume=auto"
            ) from None

    def fetch(self, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.zeros(
                0, 3 if self.mode == "RGB" else 1, self.size, self.size, dtype=torch.uint8
            )
        return torch.stack([self.decode(path) for path in self.paths[indices.numpy()]])

    def signature(self, rows: slice) -> bytes:
        """Names and sizes of the files, and the contents of up to `SIGNED_FILES` of the set."""
        paths = self.paths[rows].tolist()
        every = -(-len(self.paths) // SIGNED_FILES)
        names = [path.removeprefix(self.root) for path in paths]
        sizes = [file_size(path) for path in paths]
        entries = "\0".join([*names, *map(str, sizes)]).encode("utf-8", "surrogateescape")
        return b"\0".join([entries, *map(ends_of, paths[::every])])

    def name_of(self, row: int) -> str:
        return str(self.paths[row]).removeprefix(self.root)


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the subfolders, which are the classes. Raises UserError if there are none."""
    names = []
    for path in entries(folder):
        if path.is_symlink() and not path.exists():
            check_regular(path)  # a class must not vanish with the target of its link
        if path.is_dir():
            names.append(path.name)
    if not names:
        raise UserError(f"{folder}: no class folders; expected {folder}/CLASS/*.png")
    for name in names:
        if not is_unicode(name):
            raise UserError(
                f"{folder}: the name of class folder '{printable(name)}' is not valid "
                f"{sys.getfilesystemencoding()}; rename it"
            )
    return names


def list_pictures(folder: Path, names: Sequence[str]) -> tuple[list[Path], Tensor]:
    """Image files below folder/CLASS, sorted, and their labels. A class may have no folder."""
    paths, labels = [], []
    for label, name in enumerate(names):
        found = files_below(folder / name, ENDINGS) if (folder / name).is_dir() else []
        for path in found:
            check_regular(path)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise UserError(
            f"{folder}: no pictures ({', '.join(sorted(ENDINGS))}) in its class folders"
        )
    return paths, torch.tensor(labels, dtype=torch.int64)


def part_folders(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The folders of a divided set by part; empty if the subfolders are classes.

    A folder `train` with class folders divides a set. Other names of parts, as `training`, do so
    only where all subfolders have such names: they may be classes. Raises UserError if two folders
    are one part.
    """
    known = {name: PARTS[name.lower()] for name in names if name.lower() in PARTS}
    divided = len(known) == len(names)
    for name in names:
        if name.lower() == "train" and any(path.is_dir() for path in entries(folder / name)):
            divided = True
    found: dict[str, Path] = {}
    for name, part in known.items() if divided else ():
        if part in found:
            raise UserError(
                f"{folder}: both '{found[part].name}' and '{name}' are its {part} part; expected "
                "one folder"
            )
        found[part] = folder / name
    return found


class ImageFolder:
    """Pictures of one's own in a folder for each class.

    `root` with folders `train` and `test` (and `val`, if there is one) keeps their division; so do
    `Train` and `Test`, or `training` and `testing`. Links are followed. Hidden files and folders
    (`.ipynb_checkpoints`, `._x.png`, `__MACOSX`) are left out. 16-bit pictures and floats in [0, 1]
    are scaled to 8 bits, transparent pixels are white.

    size: side of the square that every picture is brought to, in pixels, at least 1.
    channels: 3 for colour, 1 for grey.
    test_fraction: share of each class for test where there is no folder test, in (0, 1). The same
        in every run; at least one a class.
    check: pictures that are decoded once before training: `all`, those for `evaluation`, or `none`.
        A broken one stops the run before it begins, not in the step that reads it. Files that
        passed are decoded again only after one of them changes.
    """

    def __init__(
        self,
        size: Count = 64,
        channels: Literal[1, 3] = 3,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        check: Check = "all",
    ):
        self.size = size
        self.channels = channels
        self.test_fraction = test_fraction
        self.check = check

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": None}, (self.channels, self.size, self.size), None)

    def preview(self, root: str | Path | None = None) -> DataInfo:
        """What the listing of the folders tells; no picture is opened."""
        train = self._listed(root).train
        return replace(
            self.info(), tasks={"label": len(train.classes["label"])}, train_size=len(train)
        )

    def load(self, root: str | Path | None = None) -> Splits:
        splits = self._listed(root)
        self._check(splits)
        return splits

    def _listed(self, root: str | Path | None) -> Splits:
        """The parts, whose files are listed and not opened."""
        if root is None:
            raise UserError(
                "data.root=null: data=image_folder needs the folder of the pictures, "
                "data.root=FOLDER"
            )
        folder = existing_folder(root)
        names = class_folders(folder)
        parts = part_folders(folder, names)
        return self._divided(folder, parts) if parts else self._cut(folder, names)

    def _cut(self, folder: Path, names: Sequence[str]) -> Splits:
        """Splits of a folder of classes: a share of each is held out for test."""
        paths, labels = list_pictures(folder, names)
        counts = validation_counts(class_counts(labels, len(names)), self.test_fraction)
        tested = torch.zeros(len(labels), dtype=torch.bool)
        tested[take_per_class(labels, counts, generator("image_folder", "test"))] = True
        masks = (~tested, tested)
        return Splits(*(self._part(paths, labels, mask, names, folder) for mask in masks))

    def _divided(self, folder: Path, folders: dict[str, Path]) -> Splits:
        """Splits of a folder that has `train`, `test` and optionally `val`."""
        there = next(iter(folders.values())).name
        if "train" not in folders:
            raise UserError(f"{folder}: has a folder '{there}' but no folder 'train' beside it")
        names = class_folders(folders["train"])
        parts = {}
        for part in ("train", "test", "val"):
            if part == "test" and part not in folders:
                raise UserError(f"{folder}: has a folder '{there}' but no folder 'test' beside it")
            if part not in folders:
                continue
            place = folders[part]
            unknown = sorted(set(class_folders(place)) - set(names))
            if unknown:
                raise UserError(
                    f"{place}: class folder '{unknown[0]}' is not among the classes of "
                    f"{folders['train']}; {nearest(unknown[0], names)}"
                )
            paths, labels = list_pictures(place, names)
            everything = torch.ones(len(labels), dtype=torch.bool)
            parts[part] = self._part(paths, labels, everything, names, place)
        return Splits(**parts)

    def _check(self, splits: Splits) -> None:
        """Decode the pictures that `check` names."""
        parts: list[Source | None] = []
        if self.check == "all":
            parts.append(splits.train)
        if self.check != "none":
            parts += [splits.val, splits.test]
        for source in parts:
            if isinstance(source, FolderSource):
                check_pictures(source.paths.tolist(), (self.size, self.size), source.mode)

    def _part(
        self, paths: Sequence[Path], labels: Tensor, mask: Tensor, names: Sequence[str], root: Path
    ) -> FolderSource:
        rows = mask.nonzero().flatten().tolist()
        return FolderSource(
            [paths[row] for row in rows], labels[mask], names, self.size, self.channels, root
        )
