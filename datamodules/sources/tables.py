"""Rows of csv, tsv, jsonl and parquet files, and what their cells mean."""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from datamodules.names import is_unicode, printable
from datamodules.sources.files import file_size
from datamodules.sources.lines import read_text as read_text
from datamodules.sources.lines import stream_lines
from datamodules.sources.parquet import parquet_rows
from foundation.errors import UserError

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
DELIMITERS = {",": "','", ";": "';'", "\t": "tabs", "|": "'|'"}
NAN = re.compile(r"[+-]?nan", re.IGNORECASE)
INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
NO_LABEL = ("-1", "-1.0")
NO_VALUE = (dict, list, bytes)  # what a cell of json or parquet may have instead of a value
Row = tuple[int, dict[str, Any]]  # line number in the file, and values by column


# -- files -----------------------------------------------------------------------------------------
def read_rows(
    path: Path,
    format: str,
    encoding: str = "utf-8",
    header: bool = True,
    setting: str = "",
    blank: bool = False,
    columns: Collection[str] | None = None,
) -> Iterator[Row]:
    """Rows with the line they start on, read one after the other; of parquet, with their number.
    Without a header the columns are called 0, 1, …

    blank: blank lines are rows too, without values; else they are skipped, and an empty file is
        refused.
    columns: those that are needed, None for all: of parquet, others are not read.
    """
    if format == "parquet":
        return parquet_rows(path, encoding, header, columns)
    lines = stream_lines(path, encoding, setting)
    before: list[str] = []  # blank lines at the start, and the first that is not blank
    for line in lines:
        before.append(line)
        if line.strip():
            break
    first = before[-1] if before else ""
    if not first.strip() and not blank:
        raise UserError(f"{path}: the file is empty; expected texts with labels")
    whole = chain(before, lines)
    if format == "jsonl":
        return _json_rows(path, whole, blank)
    return _table_rows(path, whole, first.rstrip("\n"), format, header, blank)


def lines_of(text: str) -> list[str]:
    """The lines of a text; `str.splitlines` would also split at ten other characters."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


# -- jsonl -----------------------------------------------------------------------------------------
def _json_rows(path: Path, lines: Iterable[str], blank: bool) -> Iterator[Row]:
    # one decoder: json.loads would make a new one for every line
    decoder = json.JSONDecoder(object_pairs_hook=_unique_keys)
    for number, ended in enumerate(lines, 1):
        line = ended.removesuffix("\n")
        if not line.strip():
            if blank:
                yield number, {}
            continue
        try:
            row = decoder.decode(line)
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            raise UserError(
                f"{path}:{number}: broken JSON ({reason}); expected one object per line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}:{number}: a JSON {type(row).__name__}; expected one object per line"
            )
        yield number, row


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of equal keys, `json` would take the last one."""
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"key '{_repeated([key for key, _ in pairs])}' occurs twice")
    return row


# -- csv and tsv -----------------------------------------------------------------------------------
def _table_rows(
    path: Path, lines: Iterable[str], first: str, format: str, header: bool, blank: bool
) -> Iterator[Row]:
    """first: the first line that is not blank."""
    style: dict[str, Any] = {"delimiter": ","}
    if format == "tsv":
        style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    # a field may be as long as the file; the limit belongs to the process, it is only ever raised
    csv.field_size_limit(max(csv.field_size_limit(), file_size(str(path))))
    reader = csv.reader(lines, strict=True, **style)
    names: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            # a quoted field may span lines: a row starts behind the last line of the row before
            line = start
            start = reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                if blank and names is not None:
                    yield line, dict.fromkeys(names)
                continue
            if names is None and header:
                names = _header(path, line, cells)
                _check_delimiter(path, first, len(names), style["delimiter"])
                continue
            if names is None:
                names = [str(i) for i in range(len(cells))]
            if len(cells) != len(names):
                _check_delimiter(path, first, len(names), style["delimiter"])
                raise UserError(
                    f"{path}:{line}: {len(cells)} fields; expected {len(names)} "
                    f"({', '.join(names)})"
                )
            yield line, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        _check_delimiter(path, first, 1, style["delimiter"])
        raise UserError(
            f"{path}:{start}: broken {format} ({error}); expected quotes to be closed and doubled"
        ) from None


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    """Names of the columns; those without a name may be several."""
    names = [cell.strip() for cell in cells]
    twice = _repeated([name for name in names if name])
    if twice is not None:
        raise UserError(f"{path}:{line}: column '{twice}' occurs twice; rename or remove one")
    return names


def _repeated(names: list[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _check_delimiter(path: Path, first: str, columns: int, delimiter: str) -> None:
    """Raise UserError if the first line has one column, but would have several with another
    delimiter."""
    counts = {other: first.count(other) for other in DELIMITERS if other != delimiter}
    likely = max(counts, key=lambda other: counts[other])
    if columns == 1 and counts[likely] and delimiter not in first:
        raise UserError(
            f"{path}: its columns seem to be separated by {DELIMITERS[likely]}; expected "
            f"{DELIMITERS[delimiter]} (csv: ',', tsv: tabs)"
        )


# -- cells -----------------------------------------------------------------------------------------
def shown(value: Any) -> str:
    """A missing or unsuitable value in a message."""
    if value is None or not str(value).strip():
        return "empty"
    if isinstance(value, NO_VALUE):
        return f"{type(value).__name__}, not a value"
    return printable(str(value).strip())


def text_of(value: Any) -> str | None:
    """A cell as text; None where it is missing: null, blank or NaN. Raises UserError for what is no
    value and for text that is not Unicode."""
    if isinstance(value, NO_VALUE):
        raise UserError(f"{shown(value)}")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    if not is_unicode(text):
        raise UserError(f"'{printable(text)[:60]}', not valid Unicode")
    return text or None


def label_of(value: Any) -> str | None:
    """A cell as the name of a class; None where it is missing: null, blank, NaN or -1. Raises
    UserError for infinities and as `text_of`."""
    text = text_of(value)
    if text is None or NAN.fullmatch(text) or text in NO_LABEL:
        return None
    if INFINITE.fullmatch(text):
        raise UserError(f"{text}, not a class")
    return text
