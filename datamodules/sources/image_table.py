"""Pictures of one's own by a table: a column of paths, columns of labels, perhaps one of parts."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from datamodules.names import expanded, printable
from datamodules.picture_form import Fit, square
from datamodules.source import DataInfo, Source, Splits
from datamodules.sources.columns import (
    Columns,
    Format,
    Rows,
    check_known,
    classes_of,
    named_classes,
    task_columns,
)
from datamodules.sources.files import check_regular
from datamodules.sources.folder_source import FolderSource
from datamodules.sources.image_folder import PARTS, Check
from datamodules.sources.pictures import check_pictures
from datamodules.sources.text import numbered, stratified_split
from datamodules.splits import count_without_label
from foundation.errors import UserError, nearest
from foundation.types import Count, Share


def part_named(text: str) -> str:
    """The part that a cell of the split column names: train, val or test. Raises UserError."""
    part = PARTS.get(text.lower())
    if part is None:
        problem = f"'{printable(text)}' is no part of a set"
        raise UserError("part", problem, nearest(text, sorted(PARTS)))
    return part


class ImageTable:
    """Pictures whose paths and labels are columns of a csv, tsv or jsonl file.

    The classes are the labels of the training rows, sorted (as numbers where all are). Paths are
    relative to `folder`. Pictures are read as by `image_folder`. Raises UserError, one line, for
    everything that is wrong with the table, and for files that are not there.

    table: the file, relative to data.root where that is set.
    path_column: column of the paths: name in the header or key in json, or position from 0 with
        header=false.
    label_column: column of the labels; a list [a, b] is a task for each column.
    split_column: column that names the part of every row, train, val or test (also training, valid,
        dev …); null: hold out test_fraction.
    test_table: file of the test part, in place of a split column; null: none.
    val_table: file of the validation part, in place of a split column; null: hold out
        data.val_fraction of the training rows.
    folder: folder that the paths begin in, relative to data.root where that is set; null: that of
        the table.
    size: side of the square that every picture is brought to, in pixels, at least 1.
    channels: 3 for colour, 1 for grey; others for arrays with so many bands (.npy, .tif).
    format: `csv`, `tsv`, `jsonl` or `auto`, by the file's ending.
    encoding: encoding of the files.
    header: the first line of a csv or tsv names the columns.
    test_fraction: share of every class for test where no part is named, in (0, 1). The same
        pictures in every run.
    check: pictures that are decoded once before training: `all`, those for `evaluation`, or `none`.
    unlabeled: allow training rows without a label (null, empty, NaN or -1); true. They are samples
        of the unlabeled stream. false: such a row is refused.
    fit: what becomes of a picture that is no square: `crop`, `pad` or `squash`. `crop` scales it to
        cover the square and cuts out the middle, `pad` adds a border, `squash` scales both sides.
    fill: grey of the border of fit=pad, 0 to 1; null: 0.5.
    """

    def __init__(
        self,
        table: str,
        path_column: str | int = "path",
        label_column: str | int | list[str | int] = "label",
        split_column: str | int | None = None,
        test_table: str | None = None,
        folder: str | None = None,
        size: Count = 64,
        channels: Count = 3,
        format: Format = "auto",
        encoding: str = "utf-8",
        header: bool = True,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        check: Check = "all",
        unlabeled: bool = True,
        val_table: str | None = None,
        fit: Fit = "crop",
        fill: Share | None = None,
    ):
        for part, file in (("test", test_table), ("val", val_table)):
            if split_column is not None and file is not None:
                key = f"data.source.split_column={split_column}"
                problem = f"data.source.{part}_table names the {part} part too"
                raise UserError(key, problem, "leave one out")
        self.table = table
        self.test_table = test_table
        self.val_table = val_table
        self.divides = True
        self.folder = folder
        self.form = square(channels, size, fit, fill)
        self.test_fraction = test_fraction
        self.check = check
        split = "" if split_column is None else str(split_column)
        tasks = task_columns(label_column)
        self.columns = Columns(
            str(path_column),
            "path",
            tasks,
            format,
            encoding,
            header,
            unlabeled,
            split,
            part_named,
        )

    def at(self, place: str, root: str | Path | None = None) -> tuple["ImageTable", Any]:
        """The loader and the root of a further set like this one. Without a split column, all its
        pictures are for training streams and for evaluation alike."""
        other = copy.copy(self)
        other.table = place
        other.val_table = other.test_table = None
        other.divides = False
        return other, root

    def info(self) -> DataInfo:
        tasks: dict[str, int | None] = dict.fromkeys(self.columns.tasks)
        return DataInfo("image", tasks, self.form.shape, stored=self.form)

    def preview(self, root: str | Path | None = None) -> DataInfo:
        """What the table tells; no picture is opened."""
        train = self._listed(root).train
        unlabeled = count_without_label(train.targets)
        tasks: dict[str, int | None] = {task: len(names) for task, names in train.classes.items()}
        return replace(
            self.info(), tasks=tasks, train_size=len(train) - unlabeled, unlabeled=unlabeled
        )

    def load(self, root: str | Path | None = None) -> Splits:
        splits = self._listed(root)
        parts: list[Source | None] = [splits.train] if self.check == "all" else []
        parts += [splits.val, splits.test] if self.check != "none" else []
        for part in parts:
            if isinstance(part, FolderSource):
                check_pictures(part.paths, part.form)
        return splits

    # -- parts -------------------------------------------------------------------------------------
    def _listed(self, root: str | Path | None) -> Splits:
        """The parts, whose files are listed and not opened."""
        base = expanded(root) if root is not None else Path()
        path = base / expanded(self.table)
        rows = self.columns.read(path)
        place = base / expanded(self.folder) if self.folder is not None else path.parent
        if self.columns.split:
            return self._by_column(path, rows, place)
        if not self.divides:
            whole = self._part(rows, named_classes(rows.labels), place)
            return Splits(whole, whole)
        classes = classes_of(path, rows.labels, self.columns.tasks)
        train = self._part(rows, classes, place)

        def other(table: str) -> FolderSource:
            further = base / expanded(table)
            more = self.columns.read(further)
            check_known(further, more, classes, path)
            return self._part(more, classes, place)

        val = None if self.val_table is None else other(self.val_table)
        if self.test_table is not None:
            return Splits(train, other(self.test_table), val)
        return replace(self._cut(path, train), val=val)

    def _cut(self, path: Path, whole: FolderSource) -> Splits:
        """A share of every class is held out for test."""
        first = next(iter(whole.targets.values()))
        kept, held = stratified_split(first, self.test_fraction, "image_table")
        if not len(held):
            raise UserError(
                f"{path}: no class has two pictures, one of them for testing; expected more "
                "pictures, or a data.source.split_column"
            )
        return Splits(taken(whole, kept), taken(whole, held))

    def _by_column(self, path: Path, rows: Rows, place: Path) -> Splits:
        parts = {part: only(rows, part) for part in ("train", "test", "val")}
        for part in ("train", "test"):
            if not parts[part].values:
                raise UserError(
                    f"{path}: no row is of the {part} part (column '{self.columns.split}')"
                )
        classes = classes_of(path, parts["train"].labels, self.columns.tasks)
        for part in ("test", "val"):
            check_known(path, parts[part], classes, "the training rows")
        val = self._part(parts["val"], classes, place) if parts["val"].values else None
        train = self._part(parts["train"], classes, place)
        return Splits(train, self._part(parts["test"], classes, place), val)

    def _part(self, rows: Rows, classes: dict[str, list[str]], place: Path) -> FolderSource:
        paths = [place / value for value in rows.values]
        check_files(paths, rows.lines)
        targets = numbered(rows.labels, classes)
        return FolderSource(paths, targets, classes, self.form, place)


def only(rows: Rows, part: str) -> Rows:
    """The rows of one part."""
    here = [i for i, name in enumerate(rows.parts) if name == part]
    return Rows(
        [rows.values[i] for i in here],
        {task: [names[i] for i in here] for task, names in rows.labels.items()},
        [rows.lines[i] for i in here],
    )


def check_files(paths: Sequence[Path], lines: Sequence[int]) -> None:
    """Raise UserError if pictures are not there: how many, and the first three."""
    lost = [(path, line) for path, line in zip(paths, lines, strict=True) if not path.exists()]
    if lost:
        first = ", ".join(f"'{printable(str(path))}' (line {line})" for path, line in lost[:3])
        rest = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise UserError(
            f"data.source.table: {len(lost)} of its pictures are not there: {first}{rest}; "
            "expected paths relative to data.source.folder, or to the table's"
        )
    for path in paths:
        check_regular(path)


def taken(source: FolderSource, rows: Tensor) -> FolderSource:
    """A source of the pictures at these positions."""
    part = copy.copy(source)
    part.paths = source.paths[rows.numpy()]
    part.targets = {task: values[rows] for task, values in source.targets.items()}
    return part
