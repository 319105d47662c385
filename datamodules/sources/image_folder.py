"""Images in folders: ROOT/train/CLASS/*.png and ROOT/test/CLASS/*.png, or ROOT/CLASS/*.png with a
share held out for test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from datamodules.source import DataInfo, Kind, Source, Splits
from datamodules.sources.standard import existing_folder
from datamodules.splits import class_counts, take_per_class, validation_counts
from foundation.errors import UserError
from foundation.randomness import generator
from foundation.types import Count

ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)


def fitted(picture: Image.Image, size: tuple[int, int], mode: str) -> Tensor:
    """uint8 [C, H, W]: upright, scaled to cover size = (height, width), center-cropped."""
    height, width = size
    upright = ImageOps.exif_transpose(picture).convert(mode)
    array = np.array(
        ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC), dtype=np.uint8
    )
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


def read_picture(path: str | Path, size: tuple[int, int], mode: str) -> Tensor:
    """`fitted` of a file. Raises UserError if it cannot be read."""
    try:
        with Image.open(path) as picture:
            picture.draft(mode, (size[1], size[0]))  # lets JPEG decode at a fraction of its size
            return fitted(picture, size, mode)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no longer exists; restore the file, then resume with resume=auto"
        ) from None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(
            f"{path}: not a picture that can be read; repair or remove the file"
        ) from None


class FolderSource(Source):
    """Image files, decoded when fetched: scaled to cover size × size (bicubic), center-cropped."""

    kind: ClassVar[Kind] = "image"
    workers: ClassVar[bool] = True

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, names: Sequence[str], size: int, channels: int
    ):
        # one array instead of a list of strings: touching reference counts of a list would copy
        # its memory pages in every worker process
        self.paths = np.array([str(path) for path in paths])
        self.targets = {"label": labels}
        self.classes = {"label": list(names)}
        self.size = size
        self.mode = "RGB" if channels == 3 else "L"

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, path: str) -> Tensor:
        """uint8 [C, size, size] of one file."""
        return read_picture(path, (self.size, self.size), self.mode)

    def fetch(self, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.zeros(
                0, 3 if self.mode == "RGB" else 1, self.size, self.size, dtype=torch.uint8
            )
        return torch.stack([self.decode(path) for path in self.paths[indices.numpy()]])


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the subfolders, which are the classes. Raises UserError if there are none."""
    names = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not names:
        raise UserError(f"{folder}: no class folders; expected {folder}/CLASS/*.png")
    return names


def list_pictures(folder: Path, names: Sequence[str]) -> tuple[list[Path], Tensor]:
    """Image files below folder/CLASS, sorted, and their labels. A class may have no folder."""
    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(
            path for path in (folder / name).rglob("*") if path.suffix.lower() in ENDINGS
        )
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise UserError(
            f"{folder}: no pictures ({', '.join(sorted(ENDINGS))}) in its class folders"
        )
    return paths, torch.tensor(labels, dtype=torch.int64)


class ImageFolder:
    """Pictures of one's own in a folder for each class.

    `root` with folders `train` and `test` (and `val`, if there is one) keeps their division.

    size: side of the square that every picture is brought to, in pixels, at least 1.
    channels: 3 for colour, 1 for grey.
    test_fraction: share of each class for test where there is no folder test, in (0, 1). The same
        in every run; at least one a class.
    """

    def __init__(
        self,
        size: Count = 64,
        channels: Literal[1, 3] = 3,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ):
        self.size = size
        self.channels = channels
        self.test_fraction = test_fraction

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": None}, (self.channels, self.size, self.size), None)

    def load(self, root: str | Path | None = None) -> Splits:
        if root is None:
            raise UserError(
                "data.root=null: data=image_folder needs the folder of the pictures, "
                "data.root=FOLDER"
            )
        folder = existing_folder(root)
        if (folder / "train").is_dir():
            return self._divided(folder)
        names = class_folders(folder)
        paths, labels = list_pictures(folder, names)
        counts = validation_counts(class_counts(labels, len(names)), self.test_fraction)
        tested = torch.zeros(len(labels), dtype=torch.bool)
        tested[take_per_class(labels, counts, generator("image_folder", "test"))] = True
        return Splits(*(self._part(paths, labels, mask, names) for mask in (~tested, tested)))

    def _divided(self, folder: Path) -> Splits:
        """Splits of a folder that has `train`, `test` and optionally `val`."""
        names = class_folders(folder / "train")
        parts = {}
        for part in ("train", "test", "val"):
            place = folder / part
            if part == "val" and not place.is_dir():
                continue
            if not place.is_dir():
                raise UserError(f"{folder}: has a folder 'train' but no folder '{part}' beside it")
            unknown = sorted(set(class_folders(place)) - set(names))
            if unknown:
                raise UserError(
                    f"{place}: class folder '{unknown[0]}' is not among the classes of "
                    f"{folder / 'train'}"
                )
            paths, labels = list_pictures(place, names)
            parts[part] = self._part(
                paths, labels, torch.ones(len(labels), dtype=torch.bool), names
            )
        return Splits(**parts)

    def _part(
        self, paths: Sequence[Path], labels: Tensor, mask: Tensor, names: Sequence[str]
    ) -> FolderSource:
        rows = mask.nonzero().flatten().tolist()
        return FolderSource(
            [paths[row] for row in rows], labels[mask], names, self.size, self.channels
        )
