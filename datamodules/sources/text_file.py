"""Texts and labels from a csv, tsv or jsonl file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from datamodules.names import expanded
from datamodules.source import DataInfo, Splits
from datamodules.sources.columns import (
    Columns,
    Format,
    check_known,
    class_names,
    classes_of,
    task_columns,
)
from datamodules.sources.files import file_size
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
    text_column: column of the texts: name in the header or key in json, or position from 0 with
        header=false.
    label_column: column of the labels; a list [a, b] is a task for each column.
    format: `csv`, `tsv`, `jsonl` or `auto`, by the file's ending.
    encoding: encoding of the files.
    header: the first line of a csv or tsv names the columns.
    test_fraction: share of every class for test where there is no test file, in (0, 1). The same
        texts in every run.
    unlabeled: allow rows without a label (null, empty, NaN or -1); true. They are samples of the
        unlabeled stream, and never held out; with several tasks a row may lack some of its labels.
        false: such a row is refused.
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
    ):
        self.train_file = train_file
        self.test_file = test_file
        self.text_column = str(text_column)
        self.encoding = encoding
        self.header = header
        self.test_fraction = test_fraction
        tasks = task_columns(label_column)
        self.columns = Columns(self.text_column, "text", tasks, format, encoding, header, unlabeled)

    def info(self) -> DataInfo:
        return DataInfo("text", dict.fromkeys(self.columns.tasks))

    def preview(self, root: str | Path | None) -> DataInfo:
        """What a small file tells; of a large one the names of its columns are checked."""
        folder = expanded(root) if root is not None else Path()
        paths = [folder / expanded(self.train_file)]
        if self.test_file is not None:
            paths.append(folder / expanded(self.test_file))
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
        rows = self.columns.read(train_path)
        classes = classes_of(train_path, rows.labels, self.columns.tasks)
        train = text_source(rows.values, rows.labels, classes)
        if self.test_file is None:
            return self._hold_out(train, train_path)
        test_path = folder / expanded(self.test_file)
        rows = self.columns.read(test_path)
        check_known(test_path, rows, classes, train_path)
        return Splits(train=train, test=text_source(rows.values, rows.labels, classes))

    def _hold_out(self, source: TextSource, path: Path) -> Splits:
        task, targets = next(iter(source.targets.items()))  # the split is stratified by it
        names = source.classes[task]
        for name, count in zip(names, class_counts(targets, len(names)).tolist(), strict=True):
            if count < 2:
                raise UserError(
                    f"{path}: class '{name}' has one text; expected two, or a data.source.test_file"
                )
        return split_source(source, self.test_fraction, "text_file")
