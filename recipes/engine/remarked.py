"""The values that methods give for the samples of a part, over all batches and ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from foundation.distributed import gather_uneven, gathering_device, names_of_any_rank
from recipes.contract.remark import FLAGGED


class Remarked:
    """index: int64 [n], the samples of the part computed last, in order. values: float32 [n] by
    name, on the host, equal on all ranks."""

    def __init__(self) -> None:
        self.index = torch.zeros(0, dtype=torch.int64)
        self.values: dict[str, Tensor] = {}
        self._batches: list[tuple[Tensor, Mapping[str, Tensor]]] = []

    def add(self, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """A batch: [N] each; nothing waits for the device."""
        self._batches.append((index, values))

    def compute(self, part: str) -> dict[str, float]:
        """The share of flagged samples by `PART/NAME`, where alarms are known. Accumulation
        restarts for the next part."""
        batches = self._batches
        self._batches = []
        names = names_of_any_rank([name for _, values in batches[:1] for name in values])
        none = torch.zeros(0, device=gathering_device())
        index = [index for index, _ in batches] or [none.long()]
        every = gather_uneven(torch.cat(index)).cpu()
        order = every.argsort()
        self.index = every[order]
        self.values = {}
        for name in names:
            rows = [values[name] for _, values in batches] or [none]
            self.values[name] = gather_uneven(torch.cat(rows)).cpu()[order]
        shares = {}
        for name, values in self.values.items():
            if name.endswith(FLAGGED) and len(values) and not values.isnan().any():
                shares[f"{part}/{name}"] = float(values.mean())
        return shares
