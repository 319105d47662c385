"""A table of a user's own: one column has the samples, texts or paths, others have labels."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datamodules.sources.coded_names import distinct
from datamodules.sources.tables import SUFFIXES, label_of, read_rows, shown, text_of
from datamodules.sources.text import Labels
from foundation.errors import UserError, nearest

Format = Literal["auto", "csv", "tsv", "jsonl", "parquet"]
# without a limit, int() would refuse a number of 5000 digits
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,1000}")


@dataclass
class Rows:
    """What a table has. values: texts or paths. labels: class names by task, None for no label.
    lines: where the rows are in the file. parts: the part of each, empty without a split column.
    marks: by column of marks, whether each row has it. cameras: of each row, or empty.
    Of a large file of texts, values, labels and lines stay in files."""

    values: Sequence[str] = field(default_factory=list)
    labels: Labels = field(default_factory=dict)
    lines: Sequence[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    marks: dict[str, list[bool]] = field(default_factory=dict)
    cameras: list[str | None] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """How the tables of a set are read.

    value: the column of the samples. what: what it has, `text` or `path`.
    tasks: the column of the labels by task. split: the column of the parts, empty for none.
    part_of: the part that a cell of it names. Raises UserError for another one.
    unlabeled: whether rows without a label are allowed.
    marks: columns of yes and no. camera: the column of the cameras, empty for none.
    """

    value: str
    what: str
    tasks: dict[str, str]
    format: Format = "auto"
    encoding: str = "utf-8"
    header: bool = True
    unlabeled: bool = True
    split: str = ""
    part_of: Callable[[str], str] = str
    marks: tuple[str, ...] = ()
    camera: str = ""

    def read(self, path: Path) -> Rows:
        """All rows of a table. Raises UserError, one line with the file and the line or column."""
        values: list[str] = []
        lines: list[int] = []
        parts: list[str] = []
        labels: dict[str, list[str | None]] = {task: [] for task in self.tasks}
        marks: dict[str, list[bool]] = {name: [] for name in self.marks}
        cameras: list[str | None] = []
        for line, row in self.rows(path):
            value, names, part = self.cells_of(path, line, row)
            values.append(value)
            lines.append(line)
            for task, name in zip(self.tasks, names, strict=True):
                labels[task].append(name)
            if self.split:
                parts.append(part)
            for name in self.marks:
                marks[name].append(self.mark_of(path, line, row, name))
            if self.camera:
                cameras.append(text_of(cell(path, line, row, self.camera, "camera")))
        found = Rows(values, dict(labels), lines, parts, marks, cameras)
        self.check_any(path, found)
        return found

    def cells(self, path: Path) -> Iterator[tuple[int, str, list[str | None], str]]:
        """The line, the value, the label of each task and the part of every row, one after the
        other. Raises UserError as `read`."""
        for line, row in self.rows(path):
            yield line, *self.cells_of(path, line, row)

    def cells_of(
        self, path: Path, line: int, row: dict[str, Any]
    ) -> tuple[str, list[str | None], str]:
        """The value, the label of each task and the part of a row; "" without a split column."""
        value = self.value_of(path, line, row)
        labels = [self.label_of(path, line, row, column) for column in self.tasks.values()]
        return value, labels, self.split_of(path, line, row) if self.split else ""

    def check_any(self, path: Path, rows: Rows) -> None:
        """Raise UserError for a table without rows."""
        if not len(rows.values):
            raise UserError(f"{path}: no rows; expected {self.what}s with labels")

    @property
    def settings(self) -> str:
        """All that a cell's value and label depend on."""
        form = (self.value, self.tasks, self.format, self.encoding, self.header, self.unlabeled)
        return repr(form)

    def check(self, path: Path) -> None:
        """Raise UserError if the first row of a table is not as the settings say."""
        for line, row in islice(self.rows(path), 1):
            self.value_of(path, line, row)
            for column in self.tasks.values():
                self.label_of(path, line, row, column)

    def rows(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        format = self.format_of(path)
        others = filter(None, [self.split, self.camera])
        needed = [self.value, *self.tasks.values(), *others, *self.marks]
        key = "data.source.encoding"
        return read_rows(path, format, self.encoding, self.header, key, columns=needed)

    def format_of(self, path: Path) -> str:
        if self.format != "auto":
            return self.format
        if path.suffix.lower() not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise UserError(
                f"{path}: suffix '{path.suffix}' is not a known format; expected {known}, or set "
                "data.source.format"
            )
        return SUFFIXES[path.suffix.lower()]

    # -- cells -------------------------------------------------------------------------------------
    def value_of(self, path: Path, line: int, row: dict[str, Any]) -> str:
        value = cell(path, line, row, self.value, self.what)
        try:
            text = text_of(value)
        except UserError as error:
            raise missing(path, line, self.what, self.value, str(error)) from None
        if text is None:
            raise missing(path, line, self.what, self.value, shown(value))
        return text

    def label_of(self, path: Path, line: int, row: dict[str, Any], column: str) -> str | None:
        value = cell(path, line, row, column, "label")
        try:
            label = label_of(value)
        except UserError as error:
            raise missing(path, line, "label", column, str(error)) from None
        if label is None and not self.unlabeled:
            refusal = missing(path, line, "label", column, shown(value))
            raise UserError(f"{refusal}, or data.source.unlabeled=true")
        return label

    def split_of(self, path: Path, line: int, row: dict[str, Any]) -> str:
        text = text_of(cell(path, line, row, self.split, "part"))
        try:
            return self.part_of(text or "")
        except UserError as error:
            raise error.about(f"{path}:{line}") from None

    def mark_of(self, path: Path, line: int, row: dict[str, Any], column: str) -> bool:
        """Whether a row has a mark; an empty cell says no."""
        text = text_of(cell(path, line, row, column, "mark"))
        known = {"": False, "0": False, "false": False, "no": False}
        known |= {"1": True, "true": True, "yes": True}
        value = known.get((text or "").lower().removesuffix(".0"))
        if value is None:
            raise UserError(
                f"{path}:{line}: column '{column}' is {shown(row[column])}; expected true or false"
            )
        return value


def cell(path: Path, line: int, row: dict[str, Any], column: str, what: str) -> Any:
    if column not in row:
        raise UserError(
            f"{path}:{line}: no column '{column}' for the {what}; {nearest(column, row)}"
        )
    return row[column]


def missing(path: Path, line: int, what: str, column: str, found: str) -> UserError:
    return UserError(
        f"{path}:{line}: {what} missing (column '{column}' is {found}); expected one in every row"
    )


def task_columns(label_column: str | int | list[str | int]) -> dict[str, str]:
    """The column of each task. One column is the task `label`, a list has a task for each."""
    if not isinstance(label_column, list):
        return {"label": str(label_column)}
    columns = [str(column) for column in label_column]
    if not columns or len(set(columns)) < len(columns):
        raise UserError(
            f"data.source.label_column={label_column}: name each column once, and at least one"
        )
    return dict(zip(columns, columns, strict=True))


# -- classes ---------------------------------------------------------------------------------------
def class_names(labels: Iterable[str]) -> list[str]:
    """Distinct labels, sorted as numbers where all are whole numbers.

    The order is total: `1` and `01` are equal numbers, but different names.
    """
    names = set(labels)
    if all(WHOLE_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def named_classes(labels: Labels) -> dict[str, list[str]]:
    """The classes of every task that occur."""
    return {task: class_names(distinct(values)) for task, values in labels.items()}


def classes_of(path: Path, labels: Labels, tasks: dict[str, str]) -> dict[str, list[str]]:
    """The classes of every task. Raises UserError unless each has two."""
    classes = named_classes(labels)
    for task, names in classes.items():
        if not names:
            raise UserError(f"{path}: no row has a label (column '{tasks[task]}')")
        if len(names) < 2:
            raise UserError(f"{path}: every label is '{names[0]}'; expected two or more classes")
    return classes


def check_known(path: Path, rows: Rows, classes: dict[str, list[str]], where: object) -> None:
    """Raise UserError for a label of another file that the training file, `where`, does not
    have."""
    for task, names in classes.items():
        known = set(names)
        if distinct(rows.labels[task]) <= known:
            continue
        for label, line in zip(rows.labels[task], rows.lines, strict=True):
            if label is not None and label not in known:
                raise UserError(
                    f"{path}:{line}: class '{label}' is not in {where}; {nearest(label, names)}"
                )
