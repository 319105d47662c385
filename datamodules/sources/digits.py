"""The default data set: 1797 handwritten digits of 8×8 pixels, shipped with scikit-learn (Alpaydin,
Kaynak)."""

from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from datamodules.label_counts import apportion
from datamodules.source import ArraySource, DataInfo, Splits
from datamodules.sources.standard import pixels_of
from datamodules.splits import class_counts, take_per_class
from foundation.errors import UserError, nearest
from foundation.randomness import generator

TEST_SIZE = 500
TOTAL = 1797
NAMES = {"label": [str(digit) for digit in range(10)], "parity": ["even", "odd"]}


class Digits:
    """1297 training and 500 test digits, a stratified split that is the same in every run.

    Grey values 0 … 16 become 0 … 255. `root` is not used: the set comes with scikit-learn.

    tasks: heads: `label`, which digit, `parity`, whether it is even. The first one stratifies every
        later cut.
    """

    def __init__(self, tasks: Sequence[Literal["label", "parity"]] = ("label",)):
        for task in tasks:
            if task not in NAMES:
                raise UserError(f"data.source.tasks: no task '{task}'; {nearest(task, NAMES)}")
        if not tasks or len(set(tasks)) < len(tasks):
            raise UserError(
                f"data.source.tasks={list(tasks)}: name each task once, and at least one"
            )
        self.tasks = tuple(tasks)

    def info(self) -> DataInfo:
        return DataInfo(
            "image", {task: len(NAMES[task]) for task in self.tasks}, (1, 8, 8), TOTAL - TEST_SIZE
        )

    def load(self, root: str | Path | None = None) -> Splits:
        values, digit = read()
        pixels = pixels_of((values * (255 / 16)).round())
        label = torch.from_numpy(digit)
        targets = {"label": label, "parity": label % 2}
        counts = apportion(class_counts(label, 10), TEST_SIZE)
        test = take_per_class(label, counts, generator("digits", "test"))
        mask = torch.ones(len(label), dtype=torch.bool)
        mask[test] = False

        def part(rows: torch.Tensor) -> ArraySource:
            chosen: dict[str, torch.Tensor] = {task: targets[task][rows] for task in self.tasks}
            return ArraySource(pixels[rows], chosen, {task: NAMES[task] for task in self.tasks})

        return Splits(train=part(mask.nonzero().flatten()), test=part(test))


def read() -> tuple[np.ndarray, np.ndarray]:
    """Gray values 0 … 16 [N, 8, 8] and the digits [N], from the file that
    `sklearn.datasets.load_digits` reads. Importing scikit-learn would take a quarter of a second.
    """
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype("int64")
