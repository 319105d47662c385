"""Several sources as one: a labeled set, and behind it samples that have no labels."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.source import Source


class Joined(Source):
    """The samples of several sources of images, one source behind the other.

    sources: two or more; tasks and classes are those of the first. The others may lack targets.
    """

    def __init__(self, sources: Sequence[Source]):
        first = sources[0]
        self.sources = list(sources)
        self.kind = first.kind  # type: ignore[misc]
        self.workers = any(source.workers for source in sources)  # type: ignore[misc]
        self.classes = first.classes
        self.starts = [0]
        for source in sources:
            self.starts.append(self.starts[-1] + len(source))
        self.targets = {
            task: torch.cat([without_labels(source, task) for source in sources])
            for task in first.targets
        }

    def __len__(self) -> int:
        return self.starts[-1]

    def fetch(self, indices: Tensor) -> Tensor:
        return self.gathered(indices, lambda source, rows: source.fetch(rows))

    def gathered(self, indices: Tensor, fetch: Any) -> Tensor:
        """A batch whose samples come from several sources, in its order."""
        batch: Tensor | None = None
        if not len(indices):
            return fetch(self.sources[0], indices)
        for source, start, stop in zip(self.sources, self.starts, self.starts[1:], strict=False):
            here = ((indices >= start) & (indices < stop)).nonzero().flatten()
            if not len(here):
                continue
            pixels = fetch(source, indices[here] - start)
            if len(here) == len(indices):
                return pixels
            if batch is None:
                batch = pixels.new_empty(len(indices), *pixels.shape[1:])
            batch[here.to(pixels.device)] = pixels
        assert batch is not None, "every index is that of a source"
        return batch

    # -- to tell one set from another --------------------------------------------------------------
    def signature(self, rows: slice) -> bytes:
        parts = []
        for source, start in zip(self.sources, self.starts, strict=False):
            first = max(rows.start - start, 0)
            last = min(rows.stop - start, len(source))
            if first < last:
                parts.append(source.signature(slice(first, last)))
        return b"\0".join(parts)

    def name_of(self, row: int) -> str:
        place = max(i for i, start in enumerate(self.starts[:-1]) if start <= row)
        return self.sources[place].name_of(row - self.starts[place])

    # -- sets in memory ----------------------------------------------------------------------------
    @property
    def nbytes(self) -> int | None:
        sizes = [source.nbytes for source in self.sources]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def on(self, device: torch.device) -> "Joined":
        placed = copy.copy(self)
        placed.sources = [source.on(device) for source in self.sources]
        return placed

    def fetch_there(self, indices: Tensor, there: Tensor) -> Tensor:
        return self.gathered(
            indices, lambda source, rows: source.fetch_there(rows, rows.to(there.device))
        )


def without_labels(source: Source, task: str) -> Tensor:
    """The targets of a source; -1 for each sample of one that has none."""
    if task in source.targets:
        return source.targets[task]
    return torch.full((len(source),), -1, dtype=torch.int64)
