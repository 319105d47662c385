"""STL-10: colour pictures of 96×96 pixels, 500 labeled ones a class and 100000 without a label.
Coates, Lee, Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning, AISTATS
2011."""

from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from datamodules.joined import Joined
from datamodules.source import DataInfo, Kind, Source, Splits
from datamodules.sources.files import check_regular, no_such_file
from datamodules.sources.list_files import list_lines, whole
from datamodules.sources.standard import (
    cache_folder,
    download_into,
    existing_folder,
    labels_of,
)
from foundation.errors import UserError

SIDE = 96
BYTES = 3 * SIDE * SIDE
FOLDERS = ("stl10_binary", "stl10", "STL10")


class BinaryPictures(Source):
    """The pictures of a file, memory-mapped: [N, 3, width, height], as the authors wrote them."""

    kind: ClassVar[Kind] = "image"

    def __init__(self, path: Path, targets: dict[str, Tensor], classes: list[str]):
        check_regular(path)
        if not path.exists():
            raise no_such_file(path)
        size = path.stat().st_size
        if not size or size % BYTES:
            raise UserError(
                f"{path}: {size} bytes; expected a multiple of {BYTES}, a picture each; fetch it "
                "again"
            )
        self.stored = np.memmap(path, np.uint8, "r").reshape(-1, 3, SIDE, SIDE)
        self.targets = targets
        self.classes = {"label": classes}
        for labels in targets.values():
            if len(labels) != len(self.stored):
                problem = f"{len(self.stored)} pictures but {len(labels)} labels"
                raise UserError(f"{path}: {problem}; fetch the set again")

    def __len__(self) -> int:
        return len(self.stored)

    def fetch(self, indices: Tensor) -> Tensor:
        rows = torch.from_numpy(self.stored[indices.numpy()])
        return rows.transpose(2, 3).contiguous()

    def signature(self, rows: slice) -> bytes:
        every = -(-len(self.stored) // 1000)
        return self.stored[rows][::every].tobytes()


class STL10:
    """5000 labeled and 100000 unlabeled training pictures, 8000 for test, 10 classes.

    `root`: the folder `stl10_binary` or its parent; downloaded there if missing.

    fold: of the ten published ones, 0 to 9, whose 1000 pictures keep their labels; null: all 5000
        have labels.
    unlabeled: the 100000 pictures of unlabeled_X.bin are samples of the unlabeled stream.
    """

    def __init__(
        self,
        fold: Annotated[int, Field(ge=0, le=9)] | None = None,
        unlabeled: bool = True,
    ):
        self.fold = fold
        self.unlabeled = unlabeled

    def info(self) -> DataInfo:
        labeled = 5000 if self.fold is None else 1000
        without = 5000 - labeled + 100000 * self.unlabeled
        return DataInfo("image", {"label": 10}, (3, SIDE, SIDE), labeled, without)

    def load(self, root: str | Path | None = None) -> Splits:
        base = existing_folder(root) if root is not None else cache_folder()
        folder = found(base)
        if folder is None:
            looked_for = "stl10_binary with train_X.bin and its companions"
            download_into(base, download, "STL-10", root, looked_for)
            folder = base / FOLDERS[0]
        classes = list_lines(folder / "class_names.txt")
        train: Source = self.part(folder, "train", classes)
        if self.fold is not None:
            kept = fold_rows(folder / "fold_indices.txt", self.fold, len(train))
            labels = train.targets["label"]
            train.targets["label"] = torch.full_like(labels, -1).index_copy(0, kept, labels[kept])
        if self.unlabeled:
            more = BinaryPictures(folder / "unlabeled_X.bin", {}, classes)
            train = Joined([train, more])
        return Splits(train, self.part(folder, "test", classes))

    def part(self, folder: Path, name: str, classes: list[str]) -> BinaryPictures:
        path = folder / f"{name}_y.bin"
        check_regular(path)
        if not path.exists():
            raise no_such_file(path)
        numbers = np.fromfile(path, np.uint8).astype(np.int64) - 1
        labels = labels_of(numbers, str(path), len(classes))
        return BinaryPictures(folder / f"{name}_X.bin", {"label": labels}, classes)


def found(base: Path) -> Path | None:
    places = (base, *(base / name for name in FOLDERS))
    return next((place for place in places if (place / "train_X.bin").is_file()), None)


def download(place: Path) -> None:
    import torchvision  # takes seconds to import, so only for a download

    torchvision.datasets.STL10(str(place), split="test", download=True)


def fold_rows(path: Path, fold: int, samples: int) -> Tensor:
    """The pictures of a fold; the file has a line for each."""
    lines = list_lines(path)
    if len(lines) <= fold:
        raise UserError(f"{path}: {len(lines)} lines; expected ten, one for each fold")
    rows = [whole(word, path) for word in lines[fold].split()]
    if max(rows) >= samples:
        raise UserError(f"{path}: names picture {max(rows)}; there are {samples}")
    return torch.tensor(rows)
