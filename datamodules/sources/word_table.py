"""The words of many texts in one long row of numbers, which may stay in a file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.sources.cache import mapped, release

BLOCK = 2**16  # texts of a block


class WordTable:
    """Words of N texts without padding.

    flat: int32, the words of all texts one behind the other.
    bounds: int64 [N + 1], where each text begins.
    """

    def __init__(self, flat: Tensor, bounds: Tensor):
        self.flat = flat
        self.bounds = bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def take(self, rows: Tensor, width: int) -> Tensor:
        """int32 [B, width]: the first words of the texts `rows` [B], 0 on the right."""
        if not len(self.flat):
            return torch.zeros(len(rows), width, dtype=torch.int32, device=rows.device)
        starts = self.bounds[rows, None]
        places = starts + torch.arange(width, device=starts.device)
        inside = places < self.bounds[rows + 1, None]
        return self.flat[places.clamp_(max=len(self.flat) - 1)].masked_fill_(~inside, 0)

    def counts(self) -> Tensor:
        """int32 [N]: words of each text."""
        return self.bounds.diff().to(torch.int32)

    def blocks(self) -> Iterator[Tensor]:
        """All texts as padded tables, in order."""
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            widest = int(self.bounds[start : stop + 1].diff().max())
            yield self.take(torch.arange(start, stop), max(widest, 1))

    @property
    def nbytes(self) -> int:
        return self.flat.nbytes + self.bounds.nbytes

    def to(self, device: torch.device) -> "WordTable":
        return WordTable(self.flat.to(device), self.bounds.to(device))


class MappedWords(WordTable):
    """A table in the files `words_NAME.bin` and `bounds_NAME.bin` of a folder."""

    def __init__(self, folder: Path, name: str):
        flat = mapped(folder / f"words_{name}.bin", np.int32)
        bounds = mapped(folder / f"bounds_{name}.bin", np.int64)
        super().__init__(torch.from_numpy(flat), torch.from_numpy(bounds))
        self.array = flat
        self.place = folder, name

    # a worker process that is not forked maps the files itself
    def __reduce__(self) -> tuple:
        return MappedWords, self.place

    def blocks(self) -> Iterator[Tensor]:
        for block in super().blocks():
            yield block
            release(self.array)
