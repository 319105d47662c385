"""Pictures from map-style datasets of torch: the user's own class, or one of torchvision."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from datamodules.joined import Joined
from datamodules.picture_form import Fit, PictureForm, square
from datamodules.source import DataInfo, Kind, Source, Splits
from datamodules.sources.bands import bands_of
from datamodules.sources.pictures import fitted
from datamodules.sources.standard import cache_folder
from datamodules.sources.text import stratified_split
from foundation.errors import UserError, first_line
from foundation.types import Count, Share

SIGNED_ITEMS = 200  # pictures of a set that are part of its fingerprint
LABELS = ("targets", "labels", "_labels", "y")  # where datasets keep the labels of all items
CLASSES = ("classes", "categories")
KEYS = ("image", "pixel_values", "img", "label", "labels")


class DatasetSource(Source):
    """Items of a dataset, brought to the size of the set when they are fetched.

    dataset: items are (picture, label …) or {"image", "label"}; a picture is a PIL image, a uint8
        array [H, W] or [H, W, C], or a tensor [C, H, W], uint8 or floating in [0, 1].
    rows: its items that belong to this source.
    """

    kind: ClassVar[Kind] = "image"
    workers: ClassVar[bool] = True

    def __init__(
        self,
        dataset: Any,
        rows: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        form: PictureForm,
    ):
        self.dataset = dataset
        self.rows = rows
        self.targets = {"label": labels}
        self.classes = {"label": list(classes)}
        self.form = form

    def __len__(self) -> int:
        return len(self.rows)

    def fetch(self, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.zeros(0, *self.form.shape, dtype=torch.uint8)
        return torch.stack([self.picture(row) for row in self.rows[indices].tolist()])

    def picture(self, row: int) -> Tensor:
        """uint8 [C, H, W] of one item. Raises UserError for what is no picture."""
        where = f"data.source: item {row} of {type(self.dataset).__name__}"
        value = parts_of(self.dataset[row], where)[0]
        try:
            if self.form.has_bands and not isinstance(value, Image.Image):
                return bands_of(np.asarray(value), self.form)
            return fitted(as_image(value, where), self.form)
        except UserError as error:
            raise error.about(where) from None

    def signature(self, rows: slice) -> bytes:
        """The pixels of up to `SIGNED_ITEMS` of the set."""
        every = -(-len(self.rows) // SIGNED_ITEMS)
        chosen = [row for row in range(len(self.rows))[rows] if row % every == 0]
        return b"".join(self.fetch(torch.tensor([row])).numpy().tobytes() for row in chosen)


class OwnImages:
    """Data sets of your own, or of torchvision, by `_target_` with `_partial_: true`.

    Each is called when the data are read; with `root`, where it takes one and none is given: the
    folder data.root, or the cache. Its labels are its attribute `targets` or `labels`, else all
    items are read once; its classes `classes`, else the labels. Items: see `DatasetSource`.

    train: training part, a map-style dataset.
    test: test part; null: hold out test_fraction.
    val: validation part; null: none.
    unlabeled: further training samples, whose labels are not looked at; null: none.
    size: side of the square that every picture is brought to, in pixels, at least 1.
    channels: 3 for colour, 1 for grey; others for uint8 arrays [H, W, C] with so many.
    test_fraction: share of every class for test where there is no test part, in (0, 1). The same
        items in every run.
    fit: what becomes of a picture that is no square: `crop`, `pad` or `squash`. `crop` scales it to
        cover the square and cuts out the middle, `pad` adds a border, `squash` scales both sides.
    fill: grey of the border of fit=pad, 0 to 1; null: 0.5.
    """

    def __init__(
        self,
        train: Any = None,
        test: Any = None,
        val: Any = None,
        unlabeled: Any = None,
        size: Count = 32,
        channels: Count = 3,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        self.made = {"train": train, "test": test, "val": val, "unlabeled": unlabeled}
        self.form = square(channels, size, fit, fill)
        self.test_fraction = test_fraction

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": None}, self.form.shape, stored=self.form)

    def load(self, root: str | Path | None) -> Splits:
        datasets = {
            part: dataset_of(make, part, root)
            for part, make in self.made.items()
            if make is not None
        }
        if "train" not in datasets:
            raise UserError("data.source.train", "is missing", "expected a dataset by its _target_")
        labels = {
            part: labels_of(dataset, part)
            for part, dataset in datasets.items()
            if part != "unlabeled"
        }
        classes = classes_of(datasets["train"], labels)
        if "test" in datasets:
            rows = torch.arange(len(labels["train"]))
            test = self.source(datasets, "test", labels["test"], classes)
        else:
            rows, held = stratified_split(labels["train"], self.test_fraction, "own_images")
            test = self.source(datasets, "train", labels["train"], classes, held)
        train = self.source(datasets, "train", labels["train"], classes, rows)
        val = self.source(datasets, "val", labels["val"], classes) if "val" in datasets else None
        return Splits(self.with_unlabeled(train, datasets), test, val)

    def source(
        self,
        datasets: dict[str, Any],
        part: str,
        labels: Tensor,
        classes: Sequence[str],
        rows: Tensor | None = None,
    ) -> DatasetSource:
        rows = torch.arange(len(labels)) if rows is None else rows
        dataset = datasets[part]
        return DatasetSource(dataset, rows, labels[rows], classes, self.form)

    def with_unlabeled(self, train: DatasetSource, datasets: dict[str, Any]) -> Source:
        if "unlabeled" not in datasets:
            return train
        none = torch.full((len(datasets["unlabeled"]),), -1)
        return Joined([train, self.source(datasets, "unlabeled", none, [])])


# -- datasets --------------------------------------------------------------------------------------
def dataset_of(make: Any, part: str, root: str | Path | None) -> Any:
    """The dataset that a setting names. Raises UserError if it cannot be made or is none."""
    key = f"data.source.{part}"
    if isinstance(make, partial):
        name = getattr(make.func, "__name__", str(make.func))
        try:
            make = make(**with_root(make, root))
        except UserError:
            raise
        except Exception as error:  # whatever a stranger's class raises
            raise UserError(key, f"{name} cannot be made ({first_line(error)})") from error
    if not (hasattr(make, "__getitem__") and hasattr(make, "__len__")):
        problem = f"{type(make).__name__} has no __getitem__ and __len__"
        raise UserError(key, problem, "expected a map-style dataset, with _partial_: true")
    if not len(make):
        raise UserError(key, f"{type(make).__name__} has no items")
    return make


def with_root(make: Callable[..., Any], root: str | Path | None) -> dict[str, Any]:
    """`root` for a class that takes one and was not given one."""
    assert isinstance(make, partial)
    takes = "root" in inspect.signature(make.func).parameters
    if not takes or "root" in make.keywords or make.args:
        return {}
    return {"root": str(cache_folder() if root is None else root)}


def labels_of(dataset: Any, part: str) -> Tensor:
    """int64 [N], -1 for none. Raises UserError for labels that are no whole numbers."""
    found = next((getattr(dataset, n) for n in LABELS if hasattr(dataset, n)), None)
    where = f"data.source.{part}: {type(dataset).__name__}"
    if found is None:
        found = [parts_of(dataset[i], where)[1] for i in range(len(dataset))]
    array = np.asarray(found)
    if array.shape != (len(dataset),) or array.dtype.kind not in "iu":
        raise UserError(
            where,
            f"its labels are {array.dtype} {list(array.shape)}",
            f"expected a whole number for each of its {len(dataset)} items",
        )
    return torch.from_numpy(array.astype(np.int64))


def classes_of(dataset: Any, labels: dict[str, Tensor]) -> list[str]:
    """The names of the classes, or their numbers."""
    count = 1 + max(int(values.max()) for values in labels.values())
    names = next((getattr(dataset, n) for n in CLASSES if hasattr(dataset, n)), ())
    if isinstance(names, Sequence) and len(names) >= count:
        return [str(name) for name in names]
    return [str(number) for number in range(count)]


# -- items -----------------------------------------------------------------------------------------
def parts_of(item: Any, where: str) -> tuple[Any, Any]:
    """(picture, label) of an item; the label may be missing."""
    if isinstance(item, dict):
        image = next((item[key] for key in KEYS[:3] if key in item), None)
        label = next((item[key] for key in KEYS[3:] if key in item), None)
        if image is not None:
            return image, label
    elif isinstance(item, tuple | list) and item:
        return item[0], item[1] if len(item) > 1 else None
    elif isinstance(item, Image.Image | np.ndarray | Tensor):
        return item, None
    problem = f"is a {type(item).__name__}"
    raise UserError(where, problem, "expected (picture, label), or a dict with 'image' and 'label'")


def as_image(value: Any, where: str) -> Image.Image:
    """A picture as PIL has it. Raises UserError for what is none."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, Tensor) and value.ndim == 3:
        if value.is_floating_point():
            low, high = float(value.min()), float(value.max())
            if not (low >= -1e-4 and high <= 1 + 1e-4):
                problem = f"floating pixels from {low:g} to {high:g}"
                remedy = "expected [0, 1]: networks normalize by themselves"
                raise UserError(where, problem, remedy)
            value = (value * 255).round().clamp(0, 255).to(torch.uint8)
        value = value.permute(1, 2, 0).cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        grey = value.ndim == 3 and value.shape[2] == 1
        if value.ndim == 2 or value.shape[2] in (1, 3, 4):
            return Image.fromarray(np.ascontiguousarray(value[:, :, 0] if grey else value))
    shape = getattr(value, "shape", "")
    found = f"{type(value).__name__} {list(shape) if shape != '' else ''}".strip()
    problem = f"its picture is a {found}"
    raise UserError(where, problem, "expected a PIL image, uint8 [H, W, C], or a tensor [C, H, W]")
