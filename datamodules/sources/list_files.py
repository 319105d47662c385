"""Files that say what is in a published set: lists of names and labels, and .mat files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.sources.files import check_regular, no_such_file
from datamodules.sources.tables import lines_of, read_text
from foundation.errors import UserError, first_line


def list_lines(path: Path) -> list[str]:
    """The lines of a file that are not blank, without the blanks around them."""
    lines = [line.strip() for line in lines_of(read_text(path)) if line.strip()]
    if not lines:
        raise UserError(f"{path}: the file is empty; fetch it again")
    return lines


def list_rows(path: Path, columns: str, skip: int = 0) -> list[list[str]]:
    """The words of each line, the last column with the rest of it.

    columns: what a line has, for the message: `number path`. skip: lines of a header.
    """
    count = len(columns.split())
    rows = [line.split(maxsplit=count - 1) for line in list_lines(path)[skip:]]
    for row in rows:
        if len(row) < count:
            raise UserError(f"{path}: a line is '{' '.join(row)}'; expected {columns}")
    return rows


def paths_and_numbers(path: Path) -> tuple[list[str], list[int]]:
    """The columns of a list whose lines are `PATH NUMBER`; paths may have blanks."""
    files, labels = [], []
    for line in list_lines(path):
        file, _, number = line.rpartition(" ")
        if not file:
            raise UserError(f"{path}: a line is '{line}'; expected a path and a number")
        files.append(file.strip())
        labels.append(whole(number, path))
    return files, labels


def whole(text: str, path: Path) -> int:
    """A number of a list. Raises UserError for another word."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"{path}: '{text}' is no number; fetch the file again")
    return int(text)


def columns_of(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Variables of a .mat file. Raises UserError for one that is not there."""
    from scipy.io import loadmat  # half a second

    check_regular(path)
    if not path.exists():
        raise no_such_file(path)
    try:
        stored = loadmat(str(path), squeeze_me=True)
        return {name: stored[name] for name in names}
    except Exception as error:  # whatever a damaged file leads the reader to
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}); expected the variables "
            f"{', '.join(names)}"
        ) from None


def counted_rows(path: Path, columns: str) -> list[list[str]]:
    """The rows of a list that begins with their number and the names of the columns, as those of
    CUHK do. Raises UserError for a list that is cut short."""
    lines = list_lines(path)
    number = whole(lines[0], path)
    rows = list_rows(path, columns, skip=2)
    if len(rows) != number:
        problem = f"has {len(rows)} rows; its first line says {number}"
        raise UserError(f"{path}: {problem}; fetch the file again")
    return rows


def first_there(folder: Path, names: Sequence[str]) -> Path:
    """The first of these files that is in a folder; else the last one."""
    paths = [folder / name for name in names]
    return next((path for path in paths if path.exists()), paths[-1])
