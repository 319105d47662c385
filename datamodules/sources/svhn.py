"""SVHN: house numbers, colour pictures of 32×32 pixels with a digit in the middle. Netzer, Wang,
Coates, Bissacco, Wu, Ng, Reading Digits in Natural Images, 2011."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from datamodules.joined import Joined
from datamodules.source import ArraySource, DataInfo, Source, Splits
from datamodules.sources.list_files import columns_of
from datamodules.sources.standard import (
    cache_folder,
    download_into,
    existing_folder,
    labels_of,
    pixels_of,
)
from foundation.errors import UserError

FILES = {part: f"{part}_32x32.mat" for part in ("train", "test", "extra")}
FOLDERS = ("svhn", "SVHN")
SIDE = 32


class SVHN:
    """73257 training and 26032 test pictures of the 10 digits.

    `root`: the folder (or its parent) of train_32x32.mat and test_32x32.mat; they are downloaded
    there if missing.

    extra: use of extra_32x32.mat for training: `none`, `labeled` or `unlabeled`. It has 531131
        easier pictures.
    """

    def __init__(self, extra: Literal["none", "labeled", "unlabeled"] = "none"):
        self.extra = extra

    def info(self) -> DataInfo:
        size = 73257 + 531131 if self.extra == "labeled" else 73257
        unlabeled = 531131 if self.extra == "unlabeled" else 0
        return DataInfo("image", {"label": 10}, (3, SIDE, SIDE), size, unlabeled)

    def load(self, root: str | Path | None = None) -> Splits:
        base = existing_folder(root) if root is not None else cache_folder()
        needed = [part for part in FILES if part != "extra" or self.extra != "none"]
        folder = found(base, needed)
        if folder is None:
            looked_for = ", ".join(FILES[part] for part in needed)

            def download(place: Path) -> None:
                import torchvision  # takes seconds to import, so only for a download

                for part in needed:
                    torchvision.datasets.SVHN(str(place), split=part, download=True)

            download_into(base, download, "SVHN", root, looked_for)
            folder = base
        parts: dict[str, Source] = {part: read_part(folder / FILES[part]) for part in needed}
        train = parts["train"]
        if self.extra != "none":
            more = parts["extra"]
            if self.extra == "unlabeled":
                more.targets = {}
            train = Joined([train, more])
        return Splits(train, parts["test"])


def found(base: Path, parts: list[str]) -> Path | None:
    """The folder that has all the files, None where there is none."""
    for place in (base, *(base / name for name in FOLDERS)):
        if all((place / FILES[part]).is_file() for part in parts):
            return place
    return None


def read_part(path: Path) -> ArraySource:
    """The pictures uint8 [32, 32, 3, N] and digits of a file, in which 10 is the digit 0."""
    stored = columns_of(path, ["X", "y"])
    images = stored["X"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (SIDE, SIDE, 3):
        shape = "×".join(map(str, images.shape))
        raise UserError(f"{path}: an array of {shape}; expected 32×32×3×N of bytes")
    digits = np.atleast_1d(stored["y"]).astype(np.int64) % 10
    if len(digits) != images.shape[3]:
        problem = f"{images.shape[3]} pictures but {len(digits)} labels"
        raise UserError(f"{path}: {problem}; fetch the file again")
    labels: torch.Tensor = labels_of(digits, str(path), 10)
    pixels = pixels_of(images.transpose(3, 0, 1, 2))
    return ArraySource(pixels, {"label": labels}, {"label": list("0123456789")})
