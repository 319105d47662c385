"""The weak view: horizontal flip and a random shift in whole pixels (FixMatch, arXiv 2001.07685, section 2.3)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from datamodules.views.image.raw import DrawFor, to_unit

Padding = Literal["reflect", "zeros"]


def flip_shift(pixels: Tensor, flip: Tensor, down: Tensor, right: Tensor, padding: Padding = "reflect") -> Tensor:
    """Mirror the rows where `flip` [B] is True, then read `down` [B] and `right` [B] pixels further on.

    out[b, :, y, x] = in[b, :, R(y + down_b), F(R(x + right_b))], R reflecting about the border pixels without
    repeating them (numpy's `reflect`; |shift| must be below the side), F(x) = W-1-x where flipped. With
    `zeros` what lies outside is 0. Equals pad and crop, without the padded copy. uint8 or float [B, C, H, W].
    """
    batch, channels, height, width = pixels.shape
    rows = torch.arange(height, device=pixels.device) + down[:, None]
    columns = torch.arange(width, device=pixels.device) + right[:, None]
    y, x = _reflect(rows, height), _reflect(columns, width)
    x = torch.where(flip[:, None], width - 1 - x, x)
    index = ((y * width)[:, :, None] + x[:, None, :]).view(batch, 1, -1).expand(-1, channels, -1)
    moved = pixels.flatten(2).gather(2, index).view_as(pixels)
    if padding == "zeros":
        outside = (rows != y)[:, :, None] | ((columns < 0) | (columns >= width))[:, None, :]
        moved.masked_fill_(outside[:, None], 0)
    return moved


def _reflect(index: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - index.abs()).abs()


class Weak:
    """Flip with probability 1/2, then a shift uniform over all whole pixels within `shift` times the side.

    flip: off for digits and other pictures whose mirror image means something else.
    shift: largest shift as a part of the side, rounded down to pixels: 0.125 is 4 of 32 and 1 of 8.
    padding: what comes in at the border: the mirrored picture, or black.
    """

    def __init__(
        self, flip: bool = True, shift: Annotated[float, Field(ge=0, le=0.5)] = 0.125, padding: Padding = "reflect"
    ):
        self.flip, self.shift, self.padding = flip, shift, padding

    def pixels(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8, always a new tensor."""
        number = draw_for("weak/flip_shift").uniform(3)
        down, right = (self._offset(number[:, i], side) for i, side in ((1, pixels.shape[2]), (2, pixels.shape[3])))
        flip = number[:, 0] < (0.5 if self.flip else 0.0)
        return flip_shift(pixels, flip, down, right, self.padding)

    def _offset(self, number: Tensor, side: int) -> Tensor:
        reach = int(self.shift * side)
        return (number * (2 * reach + 1)).long() - reach

    def __call__(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        return to_unit(self.pixels(pixels, draw_for))
