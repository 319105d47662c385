"""Two images in one: MultiMNIST, MultiFashion and Fashion+MNIST, made from MNIST and Fashion-MNIST.

Sener and Koltun, NeurIPS 2018, arXiv 1810.04650; Lin, Zhen, Li, Zhang and Kwong, Pareto Multi-Task
Learning, NeurIPS 2019, arXiv 1912.12854. Their files are unpublished or may not be redistributed,
so the sets are generated here, identically in every run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from datamodules.source import ArraySource, DataInfo, Source, Splits
from datamodules.sources.idx import MNIST, FashionMNIST
from foundation.errors import UserError, nearest
from foundation.randomness import generator

Set = Literal["mnist", "fashion_mnist"]
Form = Literal["sener", "pareto"]
SETS = {"mnist": MNIST, "fashion_mnist": FashionMNIST}
SIDE = 28
CANVAS = 36
# nearest neighbor from 36 to 28 pixels; the last two rows and columns are always empty
KEPT = [int((k + 0.5) * CANVAS / SIDE) for k in range(SIDE)]


def place(canvas: Tensor, pictures: Tensor, offsets: Tensor) -> None:
    """Paste pictures [N, 28, 28] into canvases [N, 36, 36] at (row, column) offsets [N, 2], taking
    the pixelwise maximum."""
    places = offsets[:, 0] * CANVAS + offsets[:, 1]
    for where in places.unique().tolist():
        row, column = divmod(where, CANVAS)
        here = (places == where).nonzero().flatten()
        window = canvas[here, row : row + SIDE, column : column + SIDE]
        canvas[here, row : row + SIDE, column : column + SIDE] = torch.maximum(
            window, pictures[here]
        )


def other_class(labels: Tensor, others: Tensor, source: torch.Generator) -> Tensor:
    """For each label the position of a random, different label in `others`."""
    partner = torch.randint(len(others), labels.shape, generator=source)
    while bool((same := others[partner] == labels).any()):
        partner[same] = torch.randint(len(others), (int(same.sum()),), generator=source)
    return partner


def composed(
    first: Source, second: Source, form: Form, part: str, alike: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(pixels uint8 [N, 1, H, W], left labels, right labels) of a part. alike: both images are from
    one set."""
    source = generator("multi_digits", form, part)
    repeats = 1 if form == "sener" else 2
    left = torch.arange(len(first)).repeat_interleave(repeats)
    a, b = first.targets["label"][left], second.targets["label"]
    # the code of `sener` pairs images regardless of their classes
    if alike and form == "pareto":
        right = other_class(a, b, source)
    else:
        right = torch.randint(len(second), (len(left),), generator=source)
    canvas = torch.zeros(len(left), CANVAS, CANVAS, dtype=torch.uint8)
    corners = torch.zeros(2, len(left), 2, dtype=torch.int64)
    if form == "pareto":
        corners = torch.randint(5, corners.shape, generator=source)
    corners[1] += 6 if form == "sener" else 4
    place(canvas, first.fetch(left)[:, 0], corners[0])
    place(canvas, second.fetch(right)[:, 0], corners[1])
    if form == "sener":
        canvas = canvas[:, KEPT][:, :, KEPT]
    return canvas.unsqueeze(1), a, b[right]


class MultiDigits:
    """One image at the top left, one at the bottom right, and a task for each: `left`, `right`.

    Training pictures are made of training pictures alone. `root`: the folder that holds the folders
    of the sets.

    first: set of the picture at the top left: `mnist` or `fashion_mnist`.
    second: set of the picture at the bottom right: `mnist` or `fashion_mnist`.
    form: `sener` (28×28, 60000 / 10000) or `pareto` (36×36, 120000 / 20000). `sener`: every picture
        once as the left one, the right one any; at (0, 0) and (6, 6) of 36×36 pixels, then 28×28 by
        nearest neighbor. `pareto`: twice, with a right one of another class where both are from
        one set; each moved by up to 4 pixels, at (0 … 4)² and (4 … 8)².
    tasks: heads: `left`, `right` or both.
    """

    def __init__(
        self,
        first: Set = "mnist",
        second: Set = "mnist",
        form: Form = "sener",
        tasks: Sequence[Literal["left", "right"]] = ("left", "right"),
    ):
        for task in tasks:
            if task not in ("left", "right"):
                raise UserError(
                    f"data.source.tasks: no task '{task}'; {nearest(task, ('left', 'right'))}"
                )
        if not tasks or len(set(tasks)) < len(tasks):
            raise UserError(
                f"data.source.tasks={list(tasks)}: name each task once, and at least one"
            )
        self.first = first
        self.second = second
        self.form = form
        self.tasks = tuple(tasks)

    def info(self) -> DataInfo:
        side, size = (SIDE, 60000) if self.form == "sener" else (CANVAS, 120000)
        return DataInfo("image", dict.fromkeys(self.tasks, 10), (1, side, side), size)

    def load(self, root: str | Path | None = None) -> Splits:
        first = SETS[self.first]().load(root)
        second = first if self.second == self.first else SETS[self.second]().load(root)
        train = self.part("train", first.train, second.train)
        return Splits(train=train, test=self.part("test", first.test, second.test))

    def part(self, name: str, first: Source, second: Source) -> ArraySource:
        pixels, left, right = composed(first, second, self.form, name, self.first == self.second)
        targets = {"left": left, "right": right}
        classes = {"left": first.classes["label"], "right": second.classes["label"]}
        own_targets: dict[str, Tensor] = {task: targets[task] for task in self.tasks}
        own_classes: dict[str, list[str]] = {task: classes[task] for task in self.tasks}
        return ArraySource(pixels, own_targets, own_classes)
