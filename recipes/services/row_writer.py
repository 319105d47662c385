"""Tables with a row for each sample of a part, written batch by batch."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foundation.distributed import gather_shares
from recipes.services.tables import HOST_BYTES


class RowWriter:
    """The rows of a rank's share on the host, batch after batch. A table of floating numbers above
    `HOST_BYTES` has half precision there.

    size: samples of the part. share: those of this rank.
    """

    def __init__(self, size: int, share: int):
        self.size = size
        self.share = share
        self.tables: dict[str, Tensor] = {}
        self.done = 0

    def add(self, found: Mapping[str, Tensor]) -> None:
        count = 0
        for name, rows in found.items():
            count = len(rows)
            if name not in self.tables:
                self.tables[name] = torch.empty(self.share, *rows.shape[1:], dtype=self.type(rows))
            self.tables[name][self.done : self.done + count] = rows.cpu()
        self.done += count

    def type(self, rows: Tensor) -> torch.dtype:
        if not rows.is_floating_point():
            return rows.dtype
        large = 4 * self.size * rows[0].numel() > HOST_BYTES
        return torch.float16 if large else torch.float32

    def whole(self, device: torch.device) -> dict[str, Tensor]:
        """The rows of all ranks."""
        return {name: gather_shares(t, self.size, device) for name, t in self.tables.items()}


def stacked(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of several draws, [B, draws, …]."""
    return {name: torch.stack([rows[name] for rows in found], dim=1) for name in found[0]}
