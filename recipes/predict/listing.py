"""The inputs of `python -m recipes.predict`: one for each file of a folder, each line of a list and
each row of a table. An input that is missing is a `UserError` in its place, so that no row is lost.
"""

from collections.abc import Collection
from itertools import chain
from pathlib import Path
from typing import Any

from datamodules.names import expanded
from datamodules.sources.files import files_below
from datamodules.sources.pictures import ENDINGS
from datamodules.sources.tables import SUFFIXES, lines_of, read_rows, read_text, shown, text_of
from foundation.errors import UserError, nearest

COLUMNS = {"text": ("text",), "image": ("path", "file", "image", "filename")}
Inputs = tuple[list[str], list[Any]]  # names for the column `input`, and inputs or their errors


def list_inputs(
    path: Path, kind: str, column: str | None, suffixes: Collection[str] | None = None
) -> Inputs:
    """(names for the column `input`, inputs of the run). Raises UserError if there are none.

    suffixes: of the files of a folder that are inputs; None: those of pictures or texts.
    """
    suffix = path.suffix.lower()
    if column is not None and suffix not in SUFFIXES:
        raise UserError(
            f"column: '{path}' has no columns; expected a csv, tsv, jsonl or parquet as input, or "
            "remove column"
        )
    if path.is_dir():
        names, items = from_folder(path, kind, suffixes)
    elif suffix in SUFFIXES:
        names, items = from_table(path, kind, column)
    elif suffix == ".txt":
        names, items = from_lines(path)
    elif kind == "image":
        names, items = [str(path)], [path]
    else:
        raise UserError(
            f"input: '{path}' is no list of texts; expected a txt, csv, tsv, jsonl or parquet, or "
            "a folder of txt files"
        )
    if not items:
        expected = "texts" if kind == "text" else "pictures"
        raise UserError(f"input: '{path}' has nothing to predict; expected {expected}")
    if kind == "image":
        items = [placed(item, path) if isinstance(item, str) else item for item in items]
    return names, items


def from_folder(folder: Path, kind: str, suffixes: Collection[str] | None = None) -> Inputs:
    """The pictures or text files below a folder, sorted; hidden ones are left out."""
    usual = ENDINGS if kind == "image" else {".txt"}
    paths = files_below(folder, suffixes or usual)
    names = [str(path.relative_to(folder)) for path in paths]
    if kind == "image":
        return names, list(paths)
    return names, [text_file(path) for path in paths]


def text_file(path: Path) -> str | UserError:
    try:
        return read_text(path)
    except UserError as error:
        return error


def from_lines(path: Path) -> Inputs:
    names = lines_of(read_text(path))
    items: list[Any] = []
    for number, line in enumerate(names, 1):
        items.append(line.strip() or UserError(f"{path}:{number}: the line is empty"))
    return names, items


def from_table(path: Path, kind: str, column: str | None) -> Inputs:
    """The cells of the input column. Raises UserError if it is missing or ambiguous."""
    rows = list(read_rows(path, SUFFIXES[path.suffix.lower()], blank=True))
    header = list(dict.fromkeys(chain.from_iterable(row for _, row in rows)))
    known = next((name for name in COLUMNS[kind] if name in header), None)
    wanted = column or known or (header[0] if len(header) == 1 else None)
    if wanted is None and not header:
        wanted = ""  # all rows are blank
    if wanted is None:
        raise UserError(
            f"column: '{path}' has several columns; choose one of {', '.join(header)}: column=NAME"
        )
    if header and wanted not in header:
        raise UserError(f"column: '{path}' has no column '{wanted}'; {nearest(wanted, header)}")
    names = []
    items = []
    for line, row in rows:
        name, item = cell(f"{path}:{line}", row.get(wanted), wanted)
        names.append(name)
        items.append(item)
    return names, items


def cell(place: str, value: Any, column: str) -> tuple[str, str | UserError]:
    """(name, input) of a cell; a missing value has no name, and an error for its input."""
    try:
        text = text_of(value)
    except UserError as error:
        return str(value), UserError(f"{place}: column '{column}' is {error}")
    if text is None:
        return "", UserError(f"{place}: column '{column}' is {shown(None)}")
    return str(value), text


def placed(name: str, beside: Path) -> Path:
    """A path given in a file: relative to that file, or to the working directory."""
    inside = beside.parent / expanded(name)
    return inside if inside.exists() else expanded(name)
