"""The parts of a table of pictures: which rows are in each, and which of them are looked up."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.names import printable
from datamodules.source import Roles
from datamodules.sources.columns import Columns, Rows
from datamodules.sources.files import check_regular
from datamodules.sources.folder_source import FolderSource
from datamodules.sources.image_folder import PARTS
from foundation.errors import UserError, nearest


def part_named(text: str) -> str:
    """The part that a cell of the split column names: train, val or test. Raises UserError."""
    part = PARTS.get(text.lower())
    if part is None:
        problem = f"'{printable(text)}' is no part of a set"
        raise UserError("part", problem, nearest(text, sorted(PARTS)))
    return part


@dataclass(frozen=True)
class Table:
    """Rows of one part, and the file that they are in."""

    path: Path
    rows: Rows


def check_parts(tables: dict[str, Table], column: str) -> None:
    """Raise UserError unless the split column names rows for training and for testing."""
    for part in ("train", "test"):
        if not tables[part].rows.values:
            raise UserError(
                f"{tables[part].path}: no row is of the {part} part (column '{column}')"
            )


def roles_of(table: Table, part: str, columns: Columns) -> Roles:
    """The rows of a part that are queries, and those of the gallery. Raises UserError for none, and
    for one without a camera where they have cameras."""
    marked = []
    for column in columns.marks:
        rows = [row for row, mark in enumerate(table.rows.marks[column]) if mark]
        if not rows:
            problem = f"no row of the {part} part is marked in column '{column}'"
            raise UserError(str(table.path), problem, "expected true or 1 in some")
        marked.append(torch.tensor(rows, dtype=torch.int64))
    queries, gallery = marked
    if not columns.camera:
        return Roles(queries, gallery)
    cameras = table.rows.cameras
    for row in sorted({*queries.tolist(), *gallery.tolist()}):
        if cameras[row] is None:
            place = f"{table.path}:{table.rows.lines[row]}"
            problem = f"camera missing (column '{columns.camera}' is empty)"
            raise UserError(place, problem, "expected one for each query and in the gallery")
    number: dict[str | None, int] = {None: -1}
    for name in sorted({name for name in cameras if name is not None}):
        number[name] = len(number) - 1
    return Roles(queries, gallery, torch.tensor([number[name] for name in cameras]))


def only(rows: Rows, part: str) -> Rows:
    """The rows of one part."""
    here = [i for i, name in enumerate(rows.parts) if name == part]
    return Rows(
        [rows.values[i] for i in here],
        {task: [names[i] for i in here] for task, names in rows.labels.items()},
        [rows.lines[i] for i in here],
        marks={name: [values[i] for i in here] for name, values in rows.marks.items()},
        cameras=[rows.cameras[i] for i in here] if rows.cameras else [],
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
