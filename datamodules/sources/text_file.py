"""Texts and labels from a csv, tsv, jsonl or parquet file."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from datamodules.names import expanded
from datamodules.source import DataInfo, Splits
from datamodules.sources.columns import (
    Columns,
    Format,
    check_known,
    class_names,
    classes_of,
    named_classes,
    task_columns,
)
from datamodules.sources.files import file_size
from datamodules.sources.stored_rows import Caching, rows_of
from datamodules.sources.text import TextSource, split_source, text_source
from datamodules.splits import class_counts, count_without_label
from foundation.errors import UserError

__all__ = ["TextFile", "class_names"]
PREVIEWED_BYTES = 2**23  # of a file that is read for the plan, a fraction of a second


class TextFile:
    """A data set of the user's own texts.

    The classes are the labels of the training file, sorted (as numbers where all are). A csv may
    quote its fields; a tsv has no quoting. Raises UserError, one line with the file and the line or
    column, for everything that is wrong with a file.

    train_file: training file, relative to data.root where that is set.
    test_file: test file; null: hold out test_fraction.
    val_file: validation file; null: hold out data.val_fraction of the training texts.
    text_column: column of the texts: name in the header or key in json, or position from 0 with
        header=false.
    label_column: column of the labels; a list [a, b] is a task for each column.
    format: `csv`, `tsv`, `jsonl`, `parquet` or `auto`, by the file's ending.
    encoding: encoding of the files.
    header: the first line of a csv or tsv names the columns.
    test_fraction: share of every class for test where there is no test file, in (0, 1). The same
        texts in every run.
    unlabeled: allow rows without a label (null, empty, NaN or -1); true. They are samples of the
        unlabeled stream, and never held out; with several tasks a row may lack some of its labels.
        false: such a row is refused.
    cache: files whose texts stay in the cache folder, not in memory: `auto`, `always` or `never`.
        `auto`: those from 4 MiB on. They are read once, not at every start.
    """

    def __init__(
        self,
        train_file: str,
        test_file: str | None = None,
        text_column: str | int = "text",
        label_column: str | int | list[str | int] = "label",
        format: Format = "auto",
        encoding: str = "utf-8",
        header: bool = True,
        test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        unlabeled: bool = True,
        val_file: str | None = None,
        cache: Caching = "auto",
    ):
        self.train_file = train_file
        self.test_file = test_file
        self.val_file = val_file
        self.cache = cache
        self.text_column = str(text_column)
        self.encoding = encoding
        self.header = header
        self.test_fraction = test_fraction
        tasks = task_columns(label_column)
        self.columns = Columns(self.text_column, "text", tasks, format, encoding, header, unlabeled)
        self.divides = True

    def at(self, place: str, root: str | Path | None = None) -> tuple["TextFile", Any]:
        """The loader and the root of a further set like this one: a file whose texts are all for
        training streams and for evaluation alike."""
        other = copy.copy(self)
        other.train_file = place
        other.val_file = other.test_file = None
        other.divides = False
        return other, root

    def info(self) -> DataInfo:
        return DataInfo("text", dict.fromkeys(self.columns.tasks))

    def preview(self, root: str | Path | None) -> DataInfo:
        """What a small file tells; of a large one the names of its columns are checked."""
        folder = expanded(root) if root is not None else Path()
        files = [self.train_file, self.test_file, self.val_file]
        paths = [folder / expanded(file) for file in files if file is not None]
        if any(file_size(str(path)) > PREVIEWED_BYTES for path in paths):
            for path in paths:
                self.columns.check(path)
            return self.info()
        train = self.load(root).train
        tasks: dict[str, int | None] = {task: len(names) for task, names in train.classes.items()}
        unlabeled = count_without_label(train.targets)
        return replace(
            self.info(), tasks=tasks, train_size=len(train) - unlabeled, unlabeled=unlabeled
        )

    def load(self, root: str | Path | None) -> Splits:
        folder = expanded(root) if root is not None else Path()
        train_path = folder / expanded(self.train_file)
        rows = rows_of(train_path, self.columns, self.cache)
        if not self.divides:
            whole = text_source(rows.values, rows.labels, named_classes(rows.labels))
            return Splits(whole, whole)
        classes = classes_of(train_path, rows.labels, self.columns.tasks)
        train = text_source(rows.values, rows.labels, classes)

        def other(file: str) -> TextSource:
            path = folder / expanded(file)
            more = rows_of(path, self.columns, self.cache)
            check_known(path, more, classes, train_path)
            return text_source(more.values, more.labels, classes)

        val = None if self.val_file is None else other(self.val_file)
        if self.test_file is not None:
            return Splits(train, other(self.test_file), val)
        return replace(self._hold_out(train, train_path), val=val)

    def _hold_out(self, source: TextSource, path: Path) -> Splits:
        task, targets = next(iter(source.targets.items()))  # the split is stratified by it
        names = source.classes[task]
        for name, count in zip(names, class_counts(targets, len(names)).tolist(), strict=True):
            if count < 2:
                raise UserError(
                    f"{path}: class '{name}' has one text; expected two, or a data.source.test_file"
                )
        return split_source(source, self.test_fraction, "text_file")
