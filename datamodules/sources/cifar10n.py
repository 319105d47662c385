"""CIFAR-10N: the training pictures of CIFAR-10 with the labels that people gave them. Wei, Zhu,
Cheng, Liu, Niu, Liu, Learning with Noisy Labels Revisited, ICLR 2022."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.source import Splits
from datamodules.sources.cifar import CIFAR10
from datamodules.sources.files import check_regular
from datamodules.sources.standard import cache_folder, existing_folder, labels_of
from foundation.errors import UserError, first_line

FILES = ("CIFAR-10_human.pt", "cifar10n_labels.npz")  # the authors', and the same without a pickle
FOLDERS = ("CIFAR10N", "cifar10n", "cifar-10-100n/data", "data")
Labels = Literal["aggregate", "random1", "random2", "random3", "worst"]
NAMES = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
}


class CIFAR10N(CIFAR10):
    """CIFAR-10 with human labels for training; the test part is that of CIFAR-10.

    `root`: the folder that has CIFAR-10 and CIFAR-10_human.pt (or cifar10n_labels.npz), in it or in
    its folder CIFAR10N. A validation part is held out of the training samples and has their labels.

    labels: which: `aggregate`, `random1`, `random2`, `random3` or `worst`. 9.0 % of the first, the
        majority of three, are wrong, 17 to 18 % of each of the three, and 40.2 % of the worst.
    test: test sheets of tiles: `jpeg`, compressed as the training sheets, or `lossless`.
    """

    def __init__(self, labels: Labels = "worst", test: Literal["jpeg", "lossless"] = "jpeg"):
        super().__init__(test)
        self.labels = labels

    def load(self, root: str | Path | None = None) -> Splits:
        path = label_file(root)
        splits = super().load(root)
        train = splits.train
        clean, noisy = read_labels(path, NAMES[self.labels], len(train.classes["label"]))
        if not torch.equal(clean, train.targets["label"]):
            raise UserError(
                f"{path}: its clean labels are not those of the pictures in data.root; expected "
                "the pictures in their original order"
            )
        train.targets = {"label": noisy}
        return splits


def label_file(root: str | Path | None) -> Path:
    """The file of the labels. Raises UserError without it: torchvision does not have them."""
    base = existing_folder(root) if root is not None else cache_folder()
    for place in (base, *(base / name for name in FOLDERS)):
        for name in FILES:
            if (place / name).is_file():
                return place / name
    shown = "null" if root is None else str(root)
    remedy = f"expected {FOLDERS[0]}/{FILES[0]} of github.com/UCSC-REAL/cifar-10-100n"
    raise UserError(f"data.root={shown}", "no labels of CIFAR-10N there", remedy)


def read_labels(path: Path, name: str, classes: int) -> tuple[Tensor, Tensor]:
    """(clean, noisy) labels, int64 [N]."""
    check_regular(path)
    try:
        stored = opened(path)
        arrays = [np.asarray(stored[key]) for key in ("clean_label", name)]
    # of a damaged file, and of one that lacks an array: each raises another one of a dozen
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}); expected the arrays 'clean_label' and "
            f"'{name}'"
        ) from None
    clean, noisy = (labels_of(array, str(path), classes) for array in arrays)
    return clean, noisy


def opened(path: Path) -> Any:
    """The arrays by name. The authors' file is a pickle, of which nothing but arrays is made."""
    if path.suffix == ".npz":
        return np.load(path)
    core = getattr(np, "_core", None) or np.core  # numpy 1 has it under another name
    kinds = [type(np.dtype(kind)) for kind in (np.int64, np.int32, np.uint8)]
    make = core.multiarray._reconstruct
    # the file was written by numpy 1, where the function has another name
    allowed = [make, (make, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype, *kinds]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)
