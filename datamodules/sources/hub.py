"""Sets of Hugging Face `datasets`: of the hub, or folders on the disk (`pip install 'roux[hub]'`).

Code of a set is never run: what needs a loading script is refused."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from datamodules.joined import Joined
from datamodules.picture_form import Fit, square
from datamodules.source import DataInfo, Kind, Source, Splits
from datamodules.sources.columns import class_names
from datamodules.sources.hub_columns import (
    check_classes,
    class_list,
    image_column,
    known,
    label_columns,
    labels_in,
    text_column,
    texts_in,
)
from datamodules.sources.hub_folder import open_set, set_folder
from datamodules.sources.hub_pictures import HubPictures
from datamodules.sources.text import (
    Labels,
    joined_texts,
    numbered,
    stratified_split,
    subset,
    text_source,
)
from datamodules.splits import count_without_label
from foundation.errors import UserError, nearest
from foundation.types import Count, Share

AUTO = "auto"
PREVIEWED = 200_000  # samples of a set that is read for the plan, a second
USUAL = {"test": ("test",), "val": ("validation", "val", "valid", "dev")}


class HubSet:
    """The parts of a set by the names of its splits, and its labels.

    name: folder of the set, or its name on the Hugging Face hub. A folder is one of `save_to_disk`,
        or has files that `datasets` reads; relative to data.root where that is set.
    config: configuration of a set that has several; null: the only one.
    train_split: split that is trained on.
    test_split: split of the test part; `auto`: `test`, else test_fraction of each class.
    val_split: split of the validation part; `auto`: `validation` (val, valid, dev) where there is
        one; null: hold out data.val_fraction.
    unlabeled_split: split of further training samples, whose labels are not looked at; null: none.
    label_column: column of the labels; null: the one of type ClassLabel, or `label`; a list [a, b]
        is a task for each.
    test_fraction: share of each class for test where there is no test split, in (0, 1). The same
        samples in every run.
    """

    kind: Kind

    def __init__(
        self,
        name: str,
        config: str | None = None,
        train_split: str = "train",
        test_split: str = AUTO,
        val_split: str | None = AUTO,
        unlabeled_split: str | None = None,
        label_column: str | list[str] | None = None,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ):
        self.name = name
        self.config = config
        self.chosen = {
            "train": train_split,
            "test": test_split,
            "val": val_split,
            "unlabeled": unlabeled_split,
        }
        self.label_column = label_column
        self.test_fraction = test_fraction
        self.divides = True

    def at(self, place: str, root: str | Path | None = None) -> tuple["HubSet", Any]:
        """The loader and the root of a further set like this one. One that has no test split is
        for training streams and for evaluation alike."""
        other = copy.copy(self)
        other.name = place
        other.divides = False
        return other, root

    def info(self) -> DataInfo:
        columns = self.label_column if isinstance(self.label_column, list) else ["label"]
        return DataInfo(self.kind, dict.fromkeys(columns))

    def preview(self, root: str | Path | None = None) -> DataInfo:
        """What a folder of moderate size tells; of a set of the hub nothing, because it would be
        fetched for it."""
        if set_folder(self.name, root) is None:
            return self.info()
        found = open_set(self.name, self.config, root)
        if sum(map(len, found.values())) > PREVIEWED:
            return self.info()
        train = self.load(root).train
        unlabeled = count_without_label(train.targets)
        tasks: dict[str, int | None] = {task: len(names) for task, names in train.classes.items()}
        return replace(
            self.info(), tasks=tasks, train_size=len(train) - unlabeled, unlabeled=unlabeled
        )

    def load(self, root: str | Path | None = None) -> Splits:
        found = open_set(self.name, self.config, root)
        names = {part: self.split_of(part, found) for part in self.chosen}
        train = found[names["train"] or ""]
        columns = label_columns(train.features, self.label_column)
        labels = {
            part: labels_in(found[name], columns, f"split '{name}'")
            for part, name in names.items()
            if name is not None and part != "unlabeled"
        }
        classes = {
            task: class_list(train.features[column]) or class_names(known(labels["train"][task]))
            for task, column in columns.items()
        }
        sources = {}
        for part, values in labels.items():
            name = names[part] or ""
            check_classes(values, classes, name)
            sources[part] = self.source(found[name], numbered(values, classes), classes)
        if "test" not in sources and self.divides:
            sources["train"], sources["test"] = self.cut(sources["train"], columns)
        more = names["unlabeled"]
        if more is not None:
            sources["train"] = self.with_unlabeled(sources["train"], found[more])
        return Splits(sources["train"], sources.get("test", sources["train"]), sources.get("val"))

    def split_of(self, part: str, found: dict[str, Any]) -> str | None:
        """The split that a setting names, None for none. Raises UserError for one that is not
        there."""
        wanted = self.chosen[part]
        if wanted == AUTO and part in USUAL:
            names = [name for name in USUAL[part] if name in found]
            return next((name for name in names if len(found[name])), None)
        if wanted is not None and wanted not in found:
            problem = f"'{self.name}' has no such split"
            raise UserError(f"data.source.{part}_split={wanted}", problem, nearest(wanted, found))
        if wanted is not None and not len(found[wanted]):
            raise UserError(f"data.source.{part}_split={wanted}", "the split has no samples")
        return wanted

    def cut(self, source: Source, columns: dict[str, str]) -> tuple[Source, Source]:
        """A share of each class is held out for test."""
        kept, held = stratified_split(
            source.targets[next(iter(columns))], self.test_fraction, "hub"
        )
        if not len(held):
            problem = f"'{self.name}' has no class with two samples, one of them for testing"
            raise UserError("data.source.test_split", problem, "expected the name of a split")
        return self.rows_of(source, kept), self.rows_of(source, held)

    # -- of pictures and of texts ------------------------------------------------------------------
    def source(
        self, table: Any, targets: dict[str, Tensor], classes: dict[str, list[str]]
    ) -> Source:
        raise TypeError(f"{type(self).__name__} does not implement source")

    def rows_of(self, source: Any, rows: Tensor) -> Source:
        raise TypeError(f"{type(self).__name__} does not implement rows_of")

    def with_unlabeled(self, train: Any, table: Any) -> Source:
        raise TypeError(f"{type(self).__name__} does not implement with_unlabeled")


class HubImages(HubSet):
    """Pictures of a set of Hugging Face `datasets`, decoded when they are fetched.

    image_column: column of the pictures; null: the one of type Image.
    size: side of the square that every picture is brought to, in pixels, at least 1.
    channels: 3 for colour, 1 for grey.
    fit: what becomes of a picture that is no square: `crop`, `pad` or `squash`. `crop` scales it to
        cover the square and cuts out the middle, `pad` adds a border, `squash` scales both sides.
    fill: grey of the border of fit=pad, 0 to 1; null: 0.5.
    """

    kind = "image"

    def __init__(
        self,
        name: str,
        config: str | None = None,
        train_split: str = "train",
        test_split: str = AUTO,
        val_split: str | None = AUTO,
        unlabeled_split: str | None = None,
        label_column: str | list[str] | None = None,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        image_column: str | None = None,
        size: Count = 64,
        channels: Literal[1, 3] = 3,
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        super().__init__(
            name,
            config,
            train_split,
            test_split,
            val_split,
            unlabeled_split,
            label_column,
            test_fraction,
        )
        self.image_column = image_column
        self.form = square(channels, size, fit, fill)

    def info(self) -> DataInfo:
        return replace(super().info(), shape=self.form.shape, stored=self.form)

    def source(
        self, table: Any, targets: dict[str, Tensor], classes: dict[str, list[str]]
    ) -> HubPictures:
        column = image_column(table.features, self.image_column)
        return HubPictures(table, column, targets, classes, self.form)

    def rows_of(self, source: HubPictures, rows: Tensor) -> HubPictures:
        return source.part(rows)

    def with_unlabeled(self, train: Source, table: Any) -> Source:
        return Joined([train, self.source(table, {}, {})])


class HubTexts(HubSet):
    """Texts of a set of Hugging Face `datasets`.

    text_column: column of the texts; null: the only one of strings, or `text`.
    """

    kind = "text"

    def __init__(
        self,
        name: str,
        config: str | None = None,
        train_split: str = "train",
        test_split: str = AUTO,
        val_split: str | None = AUTO,
        unlabeled_split: str | None = None,
        label_column: str | list[str] | None = None,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        text_column: str | None = None,
    ):
        super().__init__(
            name,
            config,
            train_split,
            test_split,
            val_split,
            unlabeled_split,
            label_column,
            test_fraction,
        )
        self.text_column = text_column

    def texts(self, table: Any) -> Sequence[str]:
        labels = label_columns(table.features, self.label_column, required=False)
        return texts_in(table, text_column(table.features, self.text_column, labels.values()))

    def source(
        self, table: Any, targets: dict[str, Tensor], classes: dict[str, list[str]]
    ) -> Source:
        none: Labels = {}
        source = text_source(self.texts(table), none, {})
        source.targets, source.classes = targets, classes
        return source

    def rows_of(self, source: Any, rows: Tensor) -> Source:
        return subset(source, rows)

    def with_unlabeled(self, train: Any, table: Any) -> Source:
        return joined_texts(train, self.texts(table))
