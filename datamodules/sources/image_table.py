"""Pictures of one's own by a table: a column of paths, columns of labels, perhaps one of parts."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from datamodules.names import expanded
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
from datamodules.sources.folder_source import FolderSource
from datamodules.sources.image_folder import Check
from datamodules.sources.pictures import check_pictures
from datamodules.sources.table_parts import (
    Table,
    check_files,
    check_parts,
    only,
    part_named,
    roles_of,
    taken,
)
from datamodules.sources.text import numbered, stratified_split
from datamodules.splits import count_without_label
from foundation.errors import UserError
from foundation.types import Count, Share


class ImageTable:
    """Pictures whose paths and labels are columns of a csv, tsv, jsonl or parquet file.

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
    format: `csv`, `tsv`, `jsonl`, `parquet` or `auto`, by the file's ending.
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
    query_column: column that marks what is looked up, with true or 1, in test and validation rows;
        null: every row, among all others. `evaluate/retrieval` does so. Needs gallery_column.
    gallery_column: column that marks the rows in which they are looked up; null: all others.
    camera_column: column of the camera that took a picture; null: none. Pictures of the
        class and camera of a query are left out of its gallery, as in re-identification. Needs
        query_column.
    disjoint: test and validation rows have other classes: retrieval is evaluated, heads are not.
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
        query_column: str | int | None = None,
        gallery_column: str | int | None = None,
        disjoint: bool = False,
        camera_column: str | int | None = None,
    ):
        if (query_column is None) != (gallery_column is None):
            given, other = ("query", "gallery") if gallery_column is None else ("gallery", "query")
            key = f"data.source.{given}_column"
            raise UserError(key, f"needs data.source.{other}_column", "name both columns, or none")
        if camera_column is not None and query_column is None:
            remedy = "name the columns of queries and gallery too"
            key = f"data.source.camera_column={camera_column}"
            raise UserError(key, "needs data.source.query_column", remedy)
        for part, file in (("test", test_table), ("val", val_table)):
            if split_column is not None and file is not None:
                key = f"data.source.split_column={split_column}"
                problem = f"data.source.{part}_table names the {part} part too"
                raise UserError(key, problem, "leave one out")
        if split_column is None and test_table is None:
            for name, value in (("disjoint", disjoint), ("query_column", query_column)):
                if value not in (None, False):
                    remedy = "expected data.source.split_column or data.source.test_table"
                    raise UserError(f"data.source.{name}={value}", "needs a test part", remedy)
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
            tuple(str(name) for name in (query_column, gallery_column) if name is not None),
            "" if camera_column is None else str(camera_column),
        )
        self.disjoint = disjoint

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
        return DataInfo("image", tasks, self.form.shape, stored=self.form, disjoint=self.disjoint)

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
        if not (self.columns.split or self.divides):
            whole = self._part(rows, named_classes(rows.labels), place)
            return Splits(whole, whole)
        if self.columns.split:
            tables = {part: Table(path, only(rows, part)) for part in ("train", "test", "val")}
            check_parts(tables, self.columns.split)
        else:
            files = {"test": self.test_table, "val": self.val_table}
            tables = {"train": Table(path, rows)}
            for part, file in files.items():
                if file is not None:
                    further = base / expanded(file)
                    tables[part] = Table(further, self.columns.read(further))
        return self._splits(tables, place)

    def _splits(self, tables: dict[str, Table], place: Path) -> Splits:
        """The parts of the tables that have rows."""
        path, rows = tables["train"].path, tables["train"].rows
        tasks = self.columns.tasks
        classes = classes_of(path, rows.labels, tasks)
        train = self._part(rows, classes, place)
        where = "the training rows" if self.columns.split else path
        parts, roles = {}, {}
        for part in ("test", "val"):
            table = tables.get(part)
            if table is None or not table.rows.values:
                continue
            own = classes
            if self.disjoint:
                own = classes_of(table.path, table.rows.labels, tasks)
            else:
                check_known(table.path, table.rows, classes, where)
            parts[part] = self._part(table.rows, own, place)
            if self.columns.marks:
                roles[part] = roles_of(table, part, self.columns)
        val = parts.get("val")
        if "test" in parts:
            return Splits(train, parts["test"], val, roles)
        return replace(self._cut(path, train), val=val, roles=roles)

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

    def _part(self, rows: Rows, classes: dict[str, list[str]], place: Path) -> FolderSource:
        paths = [place / value for value in rows.values]
        check_files(paths, rows.lines)
        targets = numbered(rows.labels, classes)
        return FolderSource(paths, targets, classes, self.form, place)
