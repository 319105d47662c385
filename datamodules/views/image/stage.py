"""What a view of natural pictures is made of: stages that draw for the whole batch, then work."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from datamodules.views.image.raw import DrawFor
from foundation import devices
from foundation.errors import UserError

BLOCK = 1 << 19  # bytes of pixels that a processor's cache holds beside its temporaries

Shape = tuple[int, int, int]
Drawn = tuple[Tensor, ...]


@runtime_checkable
class Stage(Protocol):
    """A change of pictures with random numbers of its own.

    size: side of the squares it makes; None: it keeps the size.
    """

    @property
    def size(self) -> int | None: ...

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        """The parameters of all rows, each [B, …]. shape: (C, H, W) of what `apply` gets."""
        ...

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        """The changed pictures [B, C, H, W], of the same dtype. `pictures` may be overwritten."""
        ...


@runtime_checkable
class PixelView(Protocol):
    """A view that can stop at uint8, so that another one continues there."""

    def pixels(self, pixels: Tensor, draw_for: DrawFor) -> Tensor: ...


def blocks(pixels: Tensor) -> Iterator[slice]:
    """Rows that are worked on together: all of a device's, few enough for the cache of the host.

    Temporaries of a whole batch of large pictures go through main memory once per operation, which
    takes twice as long as the arithmetic.
    """
    rows = len(pixels)
    step = rows
    if devices.readable(pixels) and rows:
        step = max(1, BLOCK * rows // max(pixels.nbytes, 1))
    for start in range(0, rows, max(step, 1)):
        yield slice(start, start + step)


def in_blocks(change: Callable[..., Tensor], pictures: Tensor, *drawn: Tensor) -> Tensor:
    """`change` of pictures that keep their shape, block by block. `pictures` may be overwritten."""
    parts = list(blocks(pictures))
    if len(parts) == 1:
        return change(pictures, *drawn)
    for rows in parts:
        pictures[rows] = change(pictures[rows], *(values[rows] for values in drawn))
    return pictures


def interval(
    key: str, values: Sequence[float], low: float, high: float, above: bool = False
) -> tuple[float, float]:
    """Two ascending numbers in [low, high]. above: `low` itself is too small. Raises UserError."""
    pair = tuple(float(value) for value in values)
    inside = len(pair) == 2 and low <= pair[0] <= pair[1] <= high and not (above and pair[0] <= low)
    if not inside:
        start = "above" if above else "from"
        reach = f"{start} {low:g}" + (f" to {high:g}" if high < float("inf") else "")
        raise UserError(key, f"got {list(values)}", f"expected two ascending numbers {reach}")
    return pair[0], pair[1]
