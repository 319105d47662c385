"""Statistics of classes and samples: counts, priors, and tables with one row per sample."""

import torch
from torch import Tensor, nn

from foundation.distributed import gather_rows
from recipes.services.tables import SampleTables


class ClassStatistics(nn.Module):
    """Counts n_c of the labeled training samples of every task, as float32 buffers, equal on all
    ranks."""

    def __init__(self, counts: dict[str, Tensor]):
        super().__init__()
        self._names = {task: f"counts_{task}" for task in counts}
        for task, n in counts.items():
            self.register_buffer(self._names[task], n.float())
        self._priors: dict[str, tuple[Tensor, int, Tensor]] = {}  # counts, their version, log π

    def counts(self, task: str) -> Tensor:
        """[C] number of labeled training samples per class."""
        return getattr(self, self._names[task])  # type: ignore[no-any-return]

    def log_prior(self, task: str) -> Tensor:
        """[C] log π_c with π_c = max(n_c, 1) / Σ n: a class without samples counts as one, which
        avoids log 0. Cached until the counts are moved to a device or loaded from a checkpoint."""
        counts = self.counts(task)
        before, version, prior = self._priors.get(task, (None, -1, counts))
        if before is not counts or version != counts._version:
            prior = torch.log(counts.clamp_min(1.0) / counts.sum().clamp_min(1.0))
            self._priors[task] = (counts, counts._version, prior)
        return prior


class SampleMemory(SampleTables):
    """A table with one row per sample, addressed by the stable sample index; equal on all ranks and
    part of checkpoints.

    A large one stays on the host, see `SampleTables`.

    If a sample occurs twice in a global batch, its last value is stored, on every device and number
    of ranks. Write in `after_batch`, which runs once for a replayed batch.
    """

    table: Tensor
    writes: Tensor

    def __init__(
        self,
        rows: int,
        shape: tuple[int, ...] = (),
        fill: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.add_table("table", (rows, *shape), fill, dtype)
        self.register_buffer("writes", torch.zeros(rows, dtype=torch.int64))

    def read(self, index: Tensor) -> Tensor:
        """[N, *shape] rows of the samples `index` [N]."""
        return self.table_rows("table", index)

    @torch.no_grad()
    def write(self, index: Tensor, value: Tensor, where: Tensor | None = None) -> None:
        """Store rows [N, *shape] of this rank's samples; `writes` counts the writes per sample.

        where: [N], rows that are False (or 0) are ignored as if they were not in the batch.
        """
        index = gather_rows(index)
        value = gather_rows(value.to(self.row_type("table")))
        order = torch.arange(len(index), device=index.device)
        # Equal samples all write the value of their last occurrence, so the order of writing does
        # not matter.
        same = index[:, None] == index[None, :]
        if where is not None:
            same &= gather_rows(where).bool()
        last = torch.where(same, order, -1).amax(1)
        seen = (last >= 0).view(-1, *([1] * (value.ndim - 1)))
        self.put_rows("table", index, torch.where(seen, value[last.clamp_min(0)], self.read(index)))
        first = torch.where(same, order, len(index)).amin(1) == order
        self.writes.index_add_(0, index, first.long())
