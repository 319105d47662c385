"""Pictures of a table of Hugging Face `datasets`, memory-mapped and decoded when fetched."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.picture_form import PictureForm
from datamodules.source import Kind, Source
from datamodules.sources.files import END_BYTES, ends_of
from datamodules.sources.pictures import read_picture
from foundation.errors import UserError, first_line

SIGNED = 1000  # pictures of a set that are part of its fingerprint


class HubPictures(Source):
    """Rows of a table, brought to the form of the set when they are fetched.

    table: a `datasets.Dataset`. column: of the pictures, which are files in it or paths.
    """

    kind: ClassVar[Kind] = "image"
    workers: ClassVar[bool] = True

    def __init__(
        self,
        table: Any,
        column: str,
        targets: dict[str, Tensor],
        classes: dict[str, list[str]],
        form: PictureForm,
    ):
        undecoded = copy.copy(table.features[column])
        undecoded.decode = False  # the package would decode at full size, and in its own way
        self.table = table.select_columns([column]).cast_column(column, undecoded)
        self.column = column
        self.rows = torch.arange(len(table))
        self.targets = targets
        self.classes = classes
        self.form = form

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, rows: Tensor) -> "HubPictures":
        """A source of the pictures at these positions."""
        other = copy.copy(self)
        other.rows = self.rows[rows]
        other.targets = {task: values[rows] for task, values in self.targets.items()}
        return other

    def fetch(self, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.zeros(0, *self.form.shape, dtype=torch.uint8)
        return torch.stack([self.picture(row) for row in self.rows[indices].tolist()])

    def cell(self, row: int) -> tuple[bytes | None, str]:
        """(content, path) of a picture; without a content it is in the file."""
        try:
            found = self.table[row][self.column] or {}
        except Exception as error:  # pyarrow reads the file only now
            problem = f"cannot be read ({first_line(error)})"
            raise UserError(f"data.source: row {row}", problem, "save the set again") from None
        return found.get("bytes"), found.get("path") or ""

    def picture(self, row: int) -> Tensor:
        """uint8 [C, H, W] of one row. Raises UserError for what is no picture."""
        content, path = self.cell(row)
        where = f"data.source: row {row}"
        if content is None and not path:
            raise UserError(where, "has no picture", "expected one in every row")
        if content is None:
            return read_picture(path, self.form)
        return read_picture(f"{where} {path}".rstrip(), self.form, content)

    def signature(self, rows: slice) -> bytes:
        """Beginning and end of up to `SIGNED` pictures of the set."""
        every = -(-len(self.rows) // SIGNED)
        chosen = [place for place in range(len(self.rows))[rows] if place % every == 0]
        parts = []
        for row in self.rows[chosen].tolist():
            content, path = self.cell(row)
            ends = ends_of(path) if content is None else content[:END_BYTES] + content[-END_BYTES:]
            parts.append(ends)
        return b"\0".join(parts)

    def name_of(self, row: int) -> str:
        number = int(self.rows[row])
        return self.cell(number)[1] or f"row {number}"
