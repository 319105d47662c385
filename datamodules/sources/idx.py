"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): 28×28 gray images, idx files."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources.files import check_regular
from datamodules.sources.standard import (
    cache_folder,
    candidates,
    existing_folder,
    fetch_set,
    labels_of,
    pixels_of,
)
from foundation.errors import UserError

SIDE = 28
FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
FILES["test"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx file, uncompressed or gzip.

    Format: 00 00, type 08, rank, big-endian sizes, values.
    """
    check_regular(path)
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from None
    rank = raw[3] if len(raw) > 3 else 0
    if raw[:3] != b"\0\0\x08" or not rank or len(raw) < 4 + 4 * rank:
        raise UserError(f"{path}: not an idx file of bytes (it should begin with 00 00 08)")
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if values.size != math.prod(shape):
        raise UserError(
            f"{path}: has {values.size} values, its header says {shape}; download the file again"
        )
    return values.reshape(shape)


def find_idx(folder: Path, names: tuple[str, ...]) -> dict[str, Path] | None:
    """The four files by name, all from one folder, uncompressed ones preferred; None if no folder
    has all."""
    stems = [*FILES["train"], *FILES["test"]]
    for place in candidates(folder, names):
        found = {}
        for stem in stems:
            for path in (place / f"{stem}.gz", place / stem):
                if path.is_file():
                    found[stem] = path
        if len(found) == len(stems):
            return found
    return None


class _IdxSet:
    """60000 training and 10000 test images.

    `root` is the set's folder, its parent, or its `raw` folder, with the four files as .gz or
    uncompressed; they are downloaded there if missing.
    """

    title: ClassVar[str]
    names: ClassVar[tuple[str, ...]]
    labels: ClassVar[tuple[str, ...]]

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": len(self.labels)}, (1, SIDE, SIDE), 60000)

    def load(self, root: str | Path | None = None) -> Splits:
        # the cache too: torchvision's reader has no messages for damaged files
        folder = existing_folder(root) if root is not None else cache_folder()
        found = find_idx(folder, self.names)
        parts = {}
        if found is not None:
            for part, (images, labels) in FILES.items():
                parts[part] = self._source(
                    read_idx(found[images]), read_idx(found[labels]), found[images], found[labels]
                )
        else:
            looked_for = "train-images-idx3-ubyte[.gz] and its three companions"
            train, test = fetch_set(self.torchvision_class(), self.title, root, looked_for)
            parts = {
                "train": self._source(train.data, train.targets, "train part", "train part"),
                "test": self._source(test.data, test.targets, "test part", "test part"),
            }
        return Splits(parts["train"], parts["test"])

    def _source(
        self, images: Any, labels: Any, images_from: str | Path, labels_from: str | Path
    ) -> ArraySource:
        """The images and labels. `images_from`, `labels_from`: their files, for messages."""
        if tuple(images.shape[1:]) != (SIDE, SIDE):
            shape = "×".join(map(str, images.shape))
            raise UserError(
                f"{images_from}: an array of {shape}; expected images of {SIDE}×{SIDE}, "
                f"N×{SIDE}×{SIDE}"
            )
        targets = labels_of(labels, f"{labels_from}", len(self.labels))
        if len(images) != len(labels):
            raise UserError(
                f"{self.title}: {len(images)} images but {len(labels)} labels; fetch the set again"
            )
        return ArraySource(pixels_of(images), {"label": targets}, {"label": list(self.labels)})

    def torchvision_class(self) -> type:
        """The torchvision class that downloads the set."""
        import torchvision  # takes seconds to import, so only for a download

        return getattr(torchvision.datasets, type(self).__name__)


class MNIST(_IdxSet):
    __doc__ = f"Handwritten digits. {_IdxSet.__doc__}"
    title = "MNIST"
    names = ("MNIST", "mnist")
    labels = tuple("0123456789")


class FashionMNIST(_IdxSet):
    __doc__ = f"Pictures of clothes. {_IdxSet.__doc__}"
    title = "Fashion-MNIST"
    names = ("FashionMNIST", "fashion_mnist", "fashion-mnist")
    labels = (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
