"""Texts and labels from a csv, tsv or jsonl file."""

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from datamodules.names import expanded
from datamodules.source import DataInfo, Splits
from datamodules.sources.files import file_size
from datamodules.sources.tables import SUFFIXES, label_of, read_rows, shown, text_of
from datamodules.sources.text import Labels, TextSource, split_source, text_source
from datamodules.splits import class_counts, count_without_label
from foundation.errors import UserError, nearest

Format = Literal["auto", "csv", "tsv", "jsonl"]
# without a limit, int() would refuse a number of 5000 digits
PREVIEWED_BYTES = 2**23  # of a file that is read for the plan, a fraction of a second
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,1000}")


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
        if isinstance(label_column, list):
            columns = [str(column) for column in label_column]
            self.tasks = dict(zip(columns, columns, strict=True))
            named_once = len(self.tasks) == len(columns)
        else:
            self.tasks = {"label": str(label_column)}
            named_once = True
        if not self.tasks or not named_once:
            raise UserError(
                f"data.source.label_column={label_column}: name each column once, and at least one"
            )
        self.format = format
        self.encoding = encoding
        self.header = header
        self.test_fraction = test_fraction
        self.unlabeled = unlabeled

    def info(self) -> DataInfo:
        return DataInfo("text", dict.fromkeys(self.tasks))

    def preview(self, root: str | Path | None) -> DataInfo:
        """What a small file tells; of a large one the names of its columns are checked."""
        folder = expanded(root) if root is not None else Path()
        paths = [folder / expanded(self.train_file)]
        if self.test_file is not None:
            paths.append(folder / expanded(self.test_file))
        if any(file_size(str(path)) > PREVIEWED_BYTES for path in paths):
            for path in paths:
                self._check_columns(path)
            return self.info()
        train = self.load(root).train
        tasks: dict[str, int | None] = {task: len(names) for task, names in train.classes.items()}
        unlabeled = count_without_label(train.targets)
        return replace(
            self.info(), tasks=tasks, train_size=len(train) - unlabeled, unlabeled=unlabeled
        )

    def _check_columns(self, path: Path) -> None:
        """Raise UserError if the first row of a file is not as the settings say."""
        format = self._format_of(path)
        rows = read_rows(path, format, self.encoding, self.header, "data.source.encoding")
        for line, row in islice(rows, 1):
            self._text(path, line, row)
            for column in self.tasks.values():
                self._label(path, line, row, column)

    def load(self, root: str | Path | None) -> Splits:
        folder = expanded(root) if root is not None else Path()
        train_path = folder / expanded(self.train_file)
        texts, labels, _ = self._read(train_path)
        classes = {}
        for task, values in labels.items():
            classes[task] = class_names(value for value in values if value is not None)
        for task, names in classes.items():
            if not names:
                column = self.tasks[task]
                raise UserError(f"{train_path}: no row has a label (column '{column}')")
            if len(names) < 2:
                raise UserError(
                    f"{train_path}: every label is '{names[0]}'; expected two or more classes"
                )
        train = text_source(texts, labels, classes)
        if self.test_file is None:
            return self._hold_out(train, train_path)
        test_path = folder / expanded(self.test_file)
        texts, labels, lines = self._read(test_path)
        for task, names in classes.items():
            known = set(names)
            for label, line in zip(labels[task], lines, strict=True):
                if label is not None and label not in known:
                    raise UserError(
                        f"{test_path}:{line}: class '{label}' is not in {train_path}; "
                        f"{nearest(label, names)}"
                    )
        return Splits(train=train, test=text_source(texts, labels, classes))

    def _hold_out(self, source: TextSource, path: Path) -> Splits:
        task, targets = next(iter(source.targets.items()))  # the split is stratified by it
        names = source.classes[task]
        for name, count in zip(names, class_counts(targets, len(names)).tolist(), strict=True):
            if count < 2:
                raise UserError(
                    f"{path}: class '{name}' has one text; expected two, or a data.source.test_file"
                )
        return split_source(source, self.test_fraction, "text_file")

    def _read(self, path: Path) -> tuple[list[str], Labels, list[int]]:
        """(texts, labels by task, line numbers) of a file."""
        format = self._format_of(path)
        rows = list(read_rows(path, format, self.encoding, self.header, "data.source.encoding"))
        if not rows:
            raise UserError(f"{path}: no rows; expected texts with labels")
        texts = []
        lines = []
        labels: Labels = {task: [] for task in self.tasks}
        for line, row in rows:
            texts.append(self._text(path, line, row))
            for task, column in self.tasks.items():
                labels[task].append(self._label(path, line, row, column))
            lines.append(line)
        return texts, labels, lines

    def _text(self, path: Path, line: int, row: dict[str, Any]) -> str:
        value = _cell(path, line, row, self.text_column, "text")
        try:
            text = text_of(value)
        except UserError as error:
            raise _missing(path, line, "text", self.text_column, str(error)) from None
        if text is None:
            raise _missing(path, line, "text", self.text_column, shown(value))
        return text

    def _label(self, path: Path, line: int, row: dict[str, Any], column: str) -> str | None:
        value = _cell(path, line, row, column, "label")
        try:
            label = label_of(value)
        except UserError as error:
            raise _missing(path, line, "label", column, str(error)) from None
        if label is None and not self.unlabeled:
            refusal = _missing(path, line, "label", column, shown(value))
            raise UserError(f"{refusal}, or data.source.unlabeled=true")
        return label

    def _format_of(self, path: Path) -> str:
        if self.format != "auto":
            return self.format
        if path.suffix.lower() not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise UserError(
                f"{path}: suffix '{path.suffix}' is not a known format; expected {known}, or set "
                "data.source.format"
            )
        return SUFFIXES[path.suffix.lower()]


def _cell(path: Path, line: int, row: dict[str, Any], column: str, what: str) -> Any:
    if column not in row:
        raise UserError(
            f"{path}:{line}: no column '{column}' for the {what}; {nearest(column, row)}"
        )
    return row[column]


def _missing(path: Path, line: int, what: str, column: str, found: str) -> UserError:
    return UserError(
        f"{path}:{line}: {what} missing (column '{column}' is {found}); expected one in every row"
    )


def class_names(labels: Iterable[str]) -> list[str]:
    """Distinct labels, sorted as numbers where all are whole numbers.

    The order is total: `1` and `01` are equal numbers, but different names.
    """
    names = set(labels)
    if all(WHOLE_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
