"""What the published sets of pictures in files share: finding or downloading the folder, the parts,
the checks. A set says which files are in which part, and of which class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.names import printable
from datamodules.picture_form import Fit, square
from datamodules.source import DataInfo, Roles, Source, Splits, check_labels
from datamodules.sources.files import files_below
from datamodules.sources.folder_source import FolderSource
from datamodules.sources.image_folder import Check, class_folders
from datamodules.sources.pictures import ENDINGS, check_pictures
from datamodules.sources.standard import cache_folder, download_into, existing_folder
from datamodules.sources.text import stratified_split
from datamodules.splits import count_without_label
from foundation.errors import UserError
from foundation.types import Count, Share

LABEL = "label"  # the task of a set that has one


@dataclass(frozen=True)
class Listing:
    """Pictures of a part. files: relative to the set's folder. labels: numbers of their classes.
    attributes: 0 or 1 of each picture by name; they are the set's tasks in place of one label.
    queries, gallery: positions of pictures that are looked up, and of those among which; empty:
    every one among all others."""

    files: Sequence[str]
    labels: Sequence[int]
    classes: Sequence[str]
    attributes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    queries: Sequence[int] = ()
    gallery: Sequence[int] = ()

    @property
    def targets(self) -> dict[str, Tensor]:
        named = self.attributes or {LABEL: self.labels}
        return {task: torch.as_tensor(values, dtype=torch.int64) for task, values in named.items()}

    @property
    def names(self) -> dict[str, list[str]]:
        """The classes of each task."""
        if self.attributes:
            return {task: ["no", "yes"] for task in self.attributes}
        return {LABEL: list(self.classes)}

    @property
    def roles(self) -> Roles | None:
        if not self.queries:
            return None
        return Roles(torch.tensor(self.queries), torch.tensor(self.gallery))


Listings = Mapping[str, Listing]  # by part: train, test, perhaps val


class PictureSet:
    """Base of these loaders. A subclass sets the attributes and implements `read`.

    title: of the set, for messages.
    folders: names that the set's folder has in data.root.
    marks: files or folders, one of which is in the set's folder.
    torchvision: class of torchvision that downloads the set, empty for none.
    parts_fetched: arguments of each call of it.
    tasks: numbers of classes by task, None where the lists tell.

    size: side of the square that every picture is brought to, in pixels, at least 1.
    check: pictures that are decoded once before training: `all`, those for `evaluation`, or `none`.
    fit: what becomes of a picture that is no square: `crop`, `pad` or `squash`. `crop` scales it to
        cover the square and cuts out the middle, `pad` adds a border, `squash` scales both sides.
    fill: grey of the border of fit=pad, 0 to 1; null: 0.5.
    """

    title: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]
    marks: ClassVar[tuple[str, ...]]
    torchvision: ClassVar[str] = ""
    parts_fetched: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    tasks: Mapping[str, int | None] = {LABEL: None}

    def __init__(
        self,
        size: Count = 256,
        check: Check = "all",
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        self.form = square(3, size, fit, fill)
        self.check = check

    def read(self, folder: Path) -> Listings:
        """The parts of the set in its folder; no picture is opened."""
        raise TypeError(f"{type(self).__name__} does not implement read")

    @property
    def disjoint(self) -> bool:
        """Whether evaluation has other classes than training."""
        return False

    def info(self) -> DataInfo:
        return DataInfo(
            "image", dict(self.tasks), self.form.shape, stored=self.form, disjoint=self.disjoint
        )

    def preview(self, root: str | Path | None = None) -> DataInfo:
        """What the lists tell; nothing of a set that is still to be downloaded."""
        folder = self.found(root)
        if folder is None and self.torchvision:
            return self.info()
        train = self.listed(self.folder(root)).train
        unlabeled = count_without_label(train.targets)
        return replace(
            self.info(),
            tasks={task: len(names) for task, names in train.classes.items()},
            train_size=len(train) - unlabeled,
            unlabeled=unlabeled,
        )

    def load(self, root: str | Path | None = None) -> Splits:
        splits = self.listed(self.folder(root))
        parts: list[Source | None] = [splits.train] if self.check == "all" else []
        parts += [splits.val, splits.test] if self.check != "none" else []
        for part in parts:
            if isinstance(part, FolderSource):
                check_there(part.paths.tolist(), self.title)
                check_pictures(part.paths.tolist(), part.form)
        return splits

    def listed(self, folder: Path) -> Splits:
        """The parts, whose files are named and not opened."""
        listings = self.read(folder)
        parts = {part: self.part(folder, listing) for part, listing in listings.items()}
        roles = {part: roles for part, one in listings.items() if (roles := one.roles) is not None}
        return Splits(parts["train"], parts["test"], parts.get("val"), roles)

    def part(self, folder: Path, listing: Listing) -> FolderSource:
        if not listing.files:
            raise UserError(f"{folder}: a part of {self.title} has no pictures; fetch it again")
        targets, classes = listing.targets, listing.names
        for task, labels in targets.items():
            check_labels(f"{folder}: {self.title}", labels, len(classes[task]))
        paths = [folder / file for file in listing.files]
        return FolderSource(paths, targets, classes, self.form, folder)

    # -- the folder --------------------------------------------------------------------------------
    def found(self, root: str | Path | None) -> Path | None:
        """The set's folder: data.root or one of the usual names in it; None where it is not."""
        base = cache_folder() if root is None else existing_folder(root)
        for place in (base, *(base / name for name in self.folders)):
            if any((place / mark).exists() for mark in self.marks):
                return place
        return None

    def folder(self, root: str | Path | None) -> Path:
        """The set's folder, downloaded where torchvision can. Raises UserError without it."""
        place = self.found(root)
        if place is not None:
            return place
        if self.torchvision:
            base = cache_folder() if root is None else existing_folder(root)
            download_into(base, self.download, self.title, root, self.looked_for)
            place = self.found(root)
        if place is None:
            shown = "null" if root is None else printable(str(root))
            problem = f"no {self.title} there"
            raise UserError(f"data.root={shown}", problem, f"expected {self.looked_for}")
        return place

    @property
    def looked_for(self) -> str:
        """What is expected in data.root, for messages."""
        marks = " or ".join(self.marks[:2])  # a message has no room for all
        return f"a folder with {marks}, or one with {self.folders[0]}/{self.marks[0]}"

    def download(self, base: Path) -> None:
        import torchvision  # takes seconds to import, so only for a download

        for options in self.parts_fetched:
            getattr(torchvision.datasets, self.torchvision)(str(base), download=True, **options)


def check_there(paths: Sequence[str], title: str) -> None:
    """Raise UserError for pictures that a list names and that are not there: how many, and the
    first three."""
    lost = [path for path in paths if not Path(path).exists()]
    if lost:
        first = ", ".join(printable(path) for path in lost[:3])
        rest = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        problem = f"{len(lost)} pictures of {title} are not there: {first}{rest}"
        raise UserError("data.root", problem, "unpack the whole set")


# -- parts -----------------------------------------------------------------------------------------
def listing_of_folders(folder: Path, inside: str = ".", classes: Sequence[str] = ()) -> Listing:
    """The pictures below folder/inside/CLASS, sorted. classes: of the set; none: the folders."""
    place = folder / inside
    if not place.is_dir():
        raise UserError(f"{place}: no such folder; expected CLASS/* in it")
    names = list(classes) or class_folders(place)
    files, labels = [], []
    for label, name in enumerate(names):
        inner = files_below(place / name, ENDINGS) if (place / name).is_dir() else []
        files += [str(path.relative_to(folder)) for path in inner]
        labels += [label] * len(inner)
    return Listing(files, labels, names)


def some(listing: Listing, rows: Sequence[int]) -> Listing:
    """The pictures at these positions."""
    files = [listing.files[row] for row in rows]
    return Listing(files, [listing.labels[row] for row in rows], listing.classes)


def cut_by_share(listing: Listing, share: float, title: str) -> dict[str, Listing]:
    """A share of each class is held out for test, the same in every run."""
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    kept, held = stratified_split(labels, share, title)
    return {"train": some(listing, kept.tolist()), "test": some(listing, held.tolist())}


def cut_by_classes(listing: Listing, train_classes: int) -> dict[str, Listing]:
    """The first classes for training, the others for evaluation, as metric learning does."""
    parts = {}
    total = len(listing.classes)
    for part, start, stop in (("train", 0, train_classes), ("test", train_classes, total)):
        rows = [row for row, label in enumerate(listing.labels) if start <= label < stop]
        here = some(listing, rows)
        labels = [label - start for label in here.labels]
        parts[part] = Listing(here.files, labels, listing.classes[start:stop])
    return parts
