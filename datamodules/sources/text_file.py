"""Texts and labels from a csv, tsv or jsonl file."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from datamodules.source import DataInfo, Splits
from datamodules.sources.text import TextSource, split_source, text_source
from foundation.errors import UserError, nearest

Format = Literal["auto", "csv", "tsv", "jsonl"]
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
Row = tuple[int, dict[str, Any]]  # line number in the file, and values by column


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

    def info(self) -> DataInfo:
        return DataInfo("text", dict.fromkeys(self.tasks))

    def load(self, root: str | Path | None) -> Splits:
        folder = Path(root) if root is not None else Path()
        train_path = folder / self.train_file
        texts, labels, _ = self._read(train_path)
        classes = {task: class_names(values) for task, values in labels.items()}
        for names in classes.values():
            if len(names) < 2:
                raise UserError(
                    f"{train_path}: every label is '{names[0]}'; expected two or more classes"
                )
        train = text_source(texts, labels, classes)
        if self.test_file is None:
            return self._hold_out(train, train_path)
        test_path = folder / self.test_file
        texts, labels, lines = self._read(test_path)
        for task, names in classes.items():
            for label, line in zip(labels[task], lines, strict=True):
                if label not in names:
                    raise UserError(
                        f"{test_path}:{line}: class '{label}' is not in {train_path}; "
                        f"{nearest(label, names)}"
                    )
        return Splits(train=train, test=text_source(texts, labels, classes))

    def _hold_out(self, source: TextSource, path: Path) -> Splits:
        task, targets = next(iter(source.targets.items()))  # the split is stratified by it
        for name, count in zip(source.classes[task], torch.bincount(targets).tolist(), strict=True):
            if count < 2:
                raise UserError(
                    f"{path}: class '{name}' has one text; expected two, or a data.source.test_file"
                )
        return split_source(source, self.test_fraction, "text_file")

    def _read(self, path: Path) -> tuple[list[str], dict[str, list[str]], list[int]]:
        """(texts, labels by task, line numbers) of a file."""
        rows = list(read_rows(path, self._format_of(path), self.encoding, self.header))
        if not rows:
            raise UserError(f"{path}: no rows; expected texts with labels")
        texts = []
        lines = []
        labels: dict[str, list[str]] = {task: [] for task in self.tasks}
        for line, row in rows:
            texts.append(_field(path, line, row, self.text_column, "text"))
            for task, column in self.tasks.items():
                labels[task].append(_field(path, line, row, column, "label"))
            lines.append(line)
        return texts, labels, lines

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


def _field(path: Path, line: int, row: dict[str, Any], column: str, what: str) -> str:
    """A cell as text. Raises UserError for a missing column and for an empty cell."""
    if column not in row:
        raise UserError(
            f"{path}:{line}: no column '{column}' for the {what}; {nearest(column, row)}"
        )
    value = row[column]
    empty = value is None or not str(value).strip()
    if empty or isinstance(value, dict | list):
        shown = "empty" if empty else f"{type(value).__name__}, not a value"
        raise UserError(
            f"{path}:{line}: {what} missing (column '{column}' is {shown}); expected one in every "
            "row"
        )
    return str(value).strip()


def class_names(labels: list[str]) -> list[str]:
    """Distinct labels, sorted as numbers where all are whole numbers."""
    names = set(labels)
    if all(name.lstrip("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def read_text(path: Path, encoding: str) -> str:
    """The whole file. Raises UserError if it is missing, not readable or not in this encoding."""
    codec = encoding
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        codec = "utf-8-sig"  # skips the byte-order mark that some programs write
    try:
        return path.read_text(codec)
    except FileNotFoundError:
        hint = "its folder does not exist"
        if path.parent.is_dir():
            hint = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
        raise UserError(f"{path}: no such file; {hint}") from None
    except LookupError:
        raise UserError(
            f"data.source.encoding={encoding}: no such encoding; expected one like utf-8 or latin-1"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not {encoding} (byte {error.start} is 0x{error.object[error.start]:02x}); "
            "expected another data.source.encoding, e.g. latin-1"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a readable file"
        ) from None


def read_rows(
    path: Path, format: str, encoding: str = "utf-8", header: bool = True
) -> Iterator[Row]:
    """Rows with the line they start on. Without a header the columns are called 0, 1, …"""
    text = read_text(path, encoding)
    if not text.strip():
        raise UserError(f"{path}: the file is empty; expected texts with labels")
    if format == "jsonl":
        return _json_rows(path, text)
    return _table_rows(path, text, format, header)


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: broken JSON ({error}); expected one object per line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}:{number}: a JSON {type(row).__name__}; expected one object per line"
            )
        yield number, row


def _table_rows(path: Path, text: str, format: str, header: bool) -> Iterator[Row]:
    style: dict[str, Any] = {}
    if format == "tsv":
        style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text), strict=True, **style)
    names: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            # a quoted field may span lines: a row starts behind the last line of the row before
            line = start
            start = reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if names is None and header:
                names = [cell.strip() for cell in cells]
                continue
            if names is None:
                names = [str(i) for i in range(len(cells))]
            if len(cells) != len(names):
                raise UserError(
                    f"{path}:{line}: {len(cells)} fields; expected {len(names)} "
                    f"({', '.join(names)})"
                )
            yield line, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}:{start}: broken {format} ({error}); expected quotes to be closed and doubled"
        ) from None
