"""The weak view: horizontal flip and a random shift in whole pixels (FixMatch, arXiv 2001.07685,
section 2.3)."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from datamodules.views.image.raw import DrawFor, to_unit
from datamodules.views.image.stage import Drawn, Shape

Padding = Literal["reflect", "zeros"]


def flip_shift(
    pixels: Tensor,
    flip: Tensor,
    down: Tensor,
    right: Tensor,
    padding: Padding = "reflect",
    reach: int | None = None,
) -> Tensor:
    """Mirror the samples where `flip` [B] is True, then shift by `down` [B] and `right` [B] pixels.

    out[b, :, y, x] = in[b, :, R(y + down_b), F(R(x + right_b))], R reflecting about the border
    pixels without repeating them (NumPy's `reflect`; |shift| must be below the side), F(x) = W-1-x
    if flipped. With `zeros`, pixels outside are 0.

    pixels: uint8 or float [B, C, H, W].
    reach: the largest |right|; None: W-1.

    Every line is extended so far that each line of the result is a contiguous slice of it, and
    slices are copied as a whole.
    """
    batch, channels, height, width = pixels.shape
    reach = width - 1 if reach is None else reach
    drawn, mirrored = _drawn_out(pixels, padding, reach)
    length = drawn.shape[3]
    rows = torch.arange(height, device=pixels.device) + down[:, None]
    y = _reflect(rows, height)
    first = (
        torch.arange(batch * channels, device=pixels.device).view(batch, channels, 1) * height
        + y[:, None]
    )
    start = first.mul_(length).add_((right + flip * mirrored + reach)[:, None, None]).flatten()
    pieces = drawn.view(-1).as_strided((drawn.numel() - width + 1, width), (1, 1))
    moved = pieces.index_select(0, start).view_as(pixels)
    if padding == "reflect":
        return moved
    inside = (rows == y).to(moved.dtype)
    return moved.mul_(inside[:, None, :, None])


def _drawn_out(pixels: Tensor, padding: Padding, reach: int) -> tuple[Tensor, int]:
    """Every line with its mirror image and `reach` pixels at both ends, and the offset of the
    mirror image.

    A line that is repeatedly reflected about its border pixels is periodic, and its mirror image is
    half a period further.
    """
    width = pixels.shape[3]
    mirrored = pixels.flip(3)
    if padding == "reflect":
        before, after = mirrored[..., width - 1 - reach : -1], pixels[..., 1 : reach + 1]
        return torch.cat([before, pixels, mirrored[..., 1:], after], 3), width - 1
    border = pixels.new_zeros(()).expand(*pixels.shape[:3], reach)
    return torch.cat([border, pixels, border, mirrored, border], 3), width + reach


def _reflect(index: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - index.abs()).abs()


class Weak:
    """Flip with probability 1/2, then shift by a uniform number of whole pixels.

    flip: mirror half of the pictures; false for digits and others that a mirror changes.
    shift: largest shift as a share of the side, 0 to 0.5; 0.125 (FixMatch). Rounded down to pixels:
        0.125 is 4 of 32 and 1 of 8.
    padding: what comes in at the border: `reflect` (FixMatch) or `zeros`. `reflect` is the mirrored
        picture.
    """

    def __init__(
        self,
        flip: bool = True,
        shift: Annotated[float, Field(ge=0, le=0.5)] = 0.125,
        padding: Padding = "reflect",
    ):
        self.flip = flip
        self.shift = shift
        self.padding = padding

    size = None

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        number = draw_for("weak/flip_shift").uniform(3)
        down = self._offset(number[:, 1], shape[1])
        right = self._offset(number[:, 2], shape[2])
        return number[:, 0] < (0.5 if self.flip else 0.0), down, right

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8, always a new tensor."""
        flip, down, right = drawn
        reach = self._reach(pictures.shape[3])
        return flip_shift(pictures, flip, down, right, self.padding, reach)

    def pixels(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8, always a new tensor."""
        shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        return self.apply(pixels, *self.draw(draw_for, shape, pixels.device))

    def _reach(self, side: int) -> int:
        return int(self.shift * side)

    def _offset(self, number: Tensor, side: int) -> Tensor:
        reach = self._reach(side)
        return (number * (2 * reach + 1)).long() - reach

    def __call__(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        return to_unit(self.pixels(pixels, draw_for))
