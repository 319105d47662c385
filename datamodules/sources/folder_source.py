"""Pictures in files, decoded when they are fetched."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from datamodules.names import printable
from datamodules.picture_form import PictureForm
from datamodules.source import Kind, Source
from datamodules.sources.files import ends_of
from datamodules.sources.path_list import PathList
from datamodules.sources.pictures import read_picture
from foundation.errors import UserError

SIGNED_FILES = 1000  # files of a set whose contents are part of its fingerprint


class FolderSource(Source):
    """Image files, decoded and brought to the form of the set when fetched.

    paths: N files. targets, classes: by task, as of every source.
    root: folder from which the files are named in a fingerprint; the same set may be moved.
    """

    kind: ClassVar[Kind] = "image"
    workers: ClassVar[bool] = True

    def __init__(
        self,
        paths: Sequence[str | Path],
        targets: dict[str, Tensor],
        classes: dict[str, list[str]],
        form: PictureForm,
        root: Path | None = None,
    ):
        self.paths = PathList.of(paths)
        self.targets = targets
        self.classes = classes
        self.form = form
        self.root = f"{root}/" if root is not None else ""

    def __len__(self) -> int:
        return len(self.paths)

    def decode(self, path: str) -> Tensor:
        """uint8 [C, H, W] of one file."""
        try:
            return read_picture(path, self.form)
        except UserError:
            if Path(path).exists():
                raise
            raise UserError(
                f"{printable(path)}: no longer exists; restore the file, then resume with "
                "resume=auto"
            ) from None

    def fetch(self, indices: Tensor) -> Tensor:
        if not len(indices):
            return torch.zeros(0, *self.form.shape, dtype=torch.uint8)
        return torch.stack([self.decode(path) for path in self.paths[indices.numpy()]])

    def signature(self, rows: slice) -> bytes:
        """Names and sizes of the files, and the contents of up to `SIGNED_FILES` of the set."""
        paths = self.paths[rows]
        every = -(-len(self.paths) // SIGNED_FILES)
        root = os.fsencode(self.root)
        # as bytes: to decode and encode the names of a million files takes a second
        names = [path.removeprefix(root) for path in paths.raw()]
        sizes = map(str, self.paths.status()[rows, 0].tolist())
        signed = map(ends_of, paths[::every])
        return b"\0".join([*names, "\0".join(sizes).encode(), *signed])

    def name_of(self, row: int) -> str:
        return self.paths[row].removeprefix(self.root)
