"""Made pictures in memory, for clocks: speed does not depend on what is on them, and nobody has to
download them."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.source import ArraySource, DataInfo, Splits

CLASSES = 10


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Colour pictures with smooth parts, texture and a full range of levels, uint8 [count, 3, side,
    side]."""
    random = torch.Generator().manual_seed(seed)
    smooth = interpolate(
        torch.rand(count, 3, 4, 4, generator=random), size=(side, side), mode="bilinear"
    )
    noise = torch.rand(count, 3, side, side, generator=random)
    reach = torch.rand(count, 1, 1, 1, generator=random)
    return ((0.7 * smooth + 0.3 * noise) * (0.3 + 0.7 * reach) * 255).to(torch.uint8)


class Made:
    """`size` training pictures of 32×32 in ten classes of equal size, and a few to evaluate on."""

    def __init__(self, size: int = 2000):
        self.size = size

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": CLASSES}, (3, 32, 32), self.size)

    def load(self, root: str | Path | None = None) -> Splits:
        return Splits(self._part(self.size, 0), self._part(CLASSES, 1))

    def _part(self, count: int, seed: int) -> ArraySource:
        names = [str(name) for name in range(CLASSES)]
        return ArraySource(
            pictures(count, 32, seed), {"label": torch.arange(count) % CLASSES}, {"label": names}
        )
