"""Images in folders: ROOT/train/CLASS/*.png and ROOT/test/CLASS/*.png, or ROOT/CLASS/*.png with a
share held out for test."""

import copy
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from datamodules.names import is_unicode, printable
from datamodules.picture_form import Fit, square
from datamodules.source import DataInfo, Source, Splits
from datamodules.sources.files import check_regular, entries
from datamodules.sources.folder_source import FolderSource
from datamodules.sources.listing import listed
from datamodules.sources.path_list import PathList
from datamodules.sources.pictures import check_pictures, endings
from datamodules.sources.standard import existing_folder
from datamodules.splits import class_counts, take_per_class, validation_counts
from foundation.errors import UserError, nearest
from foundation.randomness import generator
from foundation.types import Count, Share

Check = Literal["all", "evaluation", "none"]
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
UNLABELED = ("unlabeled", "unlabelled")  # names of the folder without classes, in any case


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


def list_pictures(
    folder: Path, names: Sequence[str], suffixes: Collection[str]
) -> tuple[PathList, Tensor]:
    """Image files below folder/CLASS, sorted, and their labels. A class may have no folder."""
    there = [label for label, name in enumerate(names) if (folder / name).is_dir()]
    found = listed([folder / names[label] for label in there], suffixes)
    if not len(found.paths):
        raise UserError(
            f"{folder}: no pictures ({', '.join(sorted(suffixes))}) in its class folders"
        )
    return found.paths, torch.tensor(there).repeat_interleave(torch.from_numpy(found.counts))


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


def unlabeled_folders(folder: Path) -> list[Path]:
    """The subfolders whose pictures, at any depth, have no labels."""
    found = [path for path in entries(folder) if path.name.lower() in UNLABELED]
    return [path for path in found if path.is_dir()]


def unlabeled_pictures(folders: Sequence[Path], suffixes: Collection[str]) -> PathList:
    """All pictures below these folders. Raises UserError for one that has none."""
    found = listed(folders, suffixes)
    for folder, count in zip(folders, found.counts.tolist(), strict=True):
        if not count:
            problem = f"no pictures ({', '.join(sorted(suffixes))}) in it or in its folders"
            raise UserError(printable(str(folder)), problem, "add some, or remove the folder")
    return found.paths


class ImageFolder:
    """Pictures of one's own in a folder for each class.

    `root` with folders `train` and `test` (and `val`, if there is one) keeps their division; so do
    `Train` and `Test`, or `training` and `testing`. Pictures below a folder `unlabeled` in `root`,
    at any depth, are training samples without a label. Links are followed. Hidden files and folders
    (`.ipynb_checkpoints`, `._x.png`, `__MACOSX`) are left out. 16-bit pictures and floats in [0, 1]
    are scaled to 8 bits, transparent pixels are white.

    size: side of the square that every picture is brought to, in pixels, at least 1.
    channels: 3 for colour, 1 for grey; others for arrays with so many bands (.npy, .tif).
    test_fraction: share of each class for test where there is no folder test, in (0, 1). The same
        in every run; at least one a class.
    check: pictures that are decoded once before training: `all`, those for `evaluation`, or `none`.
        A broken one stops the run before it begins, not in the step that reads it. Files that
        passed are decoded again only after one of them changes.
    fit: what becomes of a picture that is no square: `crop`, `pad` or `squash`. `crop` scales it to
        cover the square and cuts out the middle, `pad` adds a border, `squash` scales both sides.
    fill: grey of the border of fit=pad, 0 to 1; null: 0.5.
    """

    def __init__(
        self,
        size: Count = 64,
        channels: Count = 3,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        self.form = square(channels, size, fit, fill)
        self.test_fraction = test_fraction
        self.check = check
        self.divides = True

    def at(self, place: str, root: str | Path | None = None) -> tuple["ImageFolder", str]:
        """The loader and the root of a further set like this one. Without folders for its parts,
        all its pictures are for training streams and for evaluation alike."""
        other = copy.copy(self)
        other.divides = False
        return other, place

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": None}, self.form.shape, stored=self.form)

    def preview(self, root: str | Path | None = None) -> DataInfo:
        """What the listing of the folders tells; no picture is opened."""
        train = self._listed(root).train
        unlabeled = int((train.targets["label"] < 0).sum())
        return replace(
            self.info(),
            tasks={"label": len(train.classes["label"])},
            train_size=len(train) - unlabeled,
            unlabeled=unlabeled,
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
        names = [name for name in class_folders(folder) if name.lower() not in UNLABELED]
        parts = part_folders(folder, names)
        splits = self._divided(folder, parts) if parts else self._cut(folder, names)
        more = unlabeled_pictures(unlabeled_folders(folder), endings(self.form))
        if not len(more):
            return splits
        train = splits.train
        assert isinstance(train, FolderSource)
        paths = PathList.joined([train.paths, more])
        labels = torch.cat([train.targets["label"], torch.full((len(more),), -1)])
        everything = torch.ones(len(labels), dtype=torch.bool)
        names = train.classes["label"]
        return replace(splits, train=self._part(paths, labels, everything, names, folder))

    def _cut(self, folder: Path, names: Sequence[str]) -> Splits:
        """Splits of a folder of classes: a share of each is held out for test."""
        paths, labels = list_pictures(folder, names, endings(self.form))
        if not self.divides:
            everything = torch.ones(len(labels), dtype=torch.bool)
            whole = self._part(paths, labels, everything, names, folder)
            return Splits(whole, whole)
        counts = validation_counts(class_counts(labels, len(names)), self.test_fraction)
        tested = torch.zeros(len(labels), dtype=torch.bool)
        tested[take_per_class(labels, counts, generator("image_folder", "test"))] = True
        masks = (~tested, tested)
        train, test = (self._part(paths, labels, mask, names, folder) for mask in masks)
        return Splits(train, test)

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
            paths, labels = list_pictures(place, names, endings(self.form))
            everything = torch.ones(len(labels), dtype=torch.bool)
            parts[part] = self._part(paths, labels, everything, names, place)
        return Splits(parts["train"], parts["test"], parts.get("val"))

    def _check(self, splits: Splits) -> None:
        """Decode the pictures that `check` names."""
        parts: list[Source | None] = []
        if self.check == "all":
            parts.append(splits.train)
        if self.check != "none":
            parts += [splits.val, splits.test]
        for source in parts:
            if isinstance(source, FolderSource):
                check_pictures(source.paths, source.form)

    def _part(
        self, paths: PathList, labels: Tensor, mask: Tensor, names: Sequence[str], root: Path
    ) -> FolderSource:
        rows = mask.nonzero().flatten().numpy()
        files = paths[rows]
        targets = {"label": labels[mask]}
        return FolderSource(files, targets, {"label": list(names)}, self.form, root)
