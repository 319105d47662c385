"""Random resized crop (Szegedy et al., arXiv 1409.4842), and the middle of a picture."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.views.image.boxes import NUMBERS, crop_boxes
from datamodules.views.image.raw import DrawFor, to_unit
from datamodules.views.image.stage import Drawn, Shape, blocks, interval
from foundation import devices
from foundation.types import Count, Share

Interpolation = Literal["bilinear", "bicubic"]
WIDEST = float("inf")


# -- kernels ---------------------------------------------------------------------------------------
def resize_boxes(
    pixels: Tensor, boxes: Tensor, flip: Tensor, side: int, interpolation: Interpolation
) -> Tensor:
    """The boxes of uint8 pictures as squares of `side`, antialiased, mirrored where `flip`.

    boxes: int64 [B, 4], top, left, height, width. The result of Pillow, to one grey level.
    """
    if devices.readable(pixels):
        return each_resized(pixels, boxes, flip, side, interpolation)
    rows = resize_weights(boxes[:, 0], boxes[:, 2], pixels.shape[2], side, interpolation)
    columns = resize_weights(boxes[:, 1], boxes[:, 3], pixels.shape[3], side, interpolation)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    # a run in half precision would round the weights
    with torch.autocast(pixels.device.type, enabled=False):
        across = pixels.float() @ columns.transpose(1, 2)[:, None]
        levels = rows[:, None] @ across
    return levels.round_().clamp_(0, 255).to(torch.uint8)


def each_resized(
    pixels: Tensor, boxes: Tensor, flip: Tensor, side: int, interpolation: Interpolation
) -> Tensor:
    """`resize_boxes` picture by picture: on a processor the kernel for bytes, which takes one size
    at a time, is ten times as fast as products of matrices for all of them."""
    squares = pixels.new_empty(*pixels.shape[:2], side, side)
    settings = [*boxes.unbind(1), flip]
    for row, (top, left, height, width, mirrored) in enumerate(
        zip(*(values.tolist() for values in settings), strict=True)
    ):
        piece = pixels[row : row + 1, :, top : top + height, left : left + width]
        square = scaled(piece.contiguous(), side, interpolation)
        squares[row] = square[0].flip(-1) if mirrored else square[0]
    return squares


def scaled(pixels: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """uint8 pictures of one size as squares, antialiased."""
    size = (side, side)
    if devices.readable(pixels):
        return interpolate(pixels, size, mode=interpolation, antialias=True, align_corners=False)
    levels = interpolate(
        pixels.float(), size, mode=interpolation, antialias=True, align_corners=False
    )
    return levels.round_().clamp_(0, 255).to(torch.uint8)


def resize_weights(
    start: Tensor, length: Tensor, stored: int, side: int, interpolation: Interpolation
) -> Tensor:
    """float32 [B, side, stored]: how much of every stored line is in each line of the result.

    A filter that is as wide as a line of the result, and at least as one of the stored, cut off at
    the ends of [start, start + length) and normalized.
    """
    scale = length.double() / side
    center = (torch.arange(side, device=start.device) + 0.5) * scale[:, None]
    lines = torch.arange(stored, device=start.device)
    place = lines + 0.5 - start[:, None]
    distance = (place[:, None] - center[:, :, None]) / scale.clamp(min=1)[:, None, None]
    weight = triangle(distance.abs()) if interpolation == "bilinear" else cubic(distance.abs())
    there = (lines >= start[:, None]) & (lines < (start + length)[:, None])
    weight = weight * there[:, None]
    return (weight / weight.sum(2, keepdim=True)).float()


def triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2, as Pillow has it."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


# -- views -----------------------------------------------------------------------------------------
class ResizedCrop:
    """A box of random area and aspect, scaled to a square, mirrored with probability 1/2.

    The numbers are those of torchvision's `RandomResizedCrop`: the first of ten boxes that fits,
    else the largest in the middle.

    size: side of the square, in pixels, at least 1.
    scale: least and largest area of the box as shares of the picture's, above 0 to 1; 0.08 to 1
        (Inception). Semi-supervised weak views are usually larger.
    ratio: least and largest width over height of the box, above 0; 3/4 to 4/3 (Inception).
    interpolation: `bilinear` or `bicubic`, antialiased; bicubic (DeiT, timm).
    flip: mirror half of the pictures.
    """

    def __init__(
        self,
        size: Count = 224,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (0.75, 4 / 3),
        interpolation: Interpolation = "bicubic",
        flip: bool = True,
    ):
        self.size = size
        self.scale = interval("scale of a resized crop", scale, 0, 1, above=True)
        self.ratio = interval("ratio of a resized crop", ratio, 0, WIDEST, above=True)
        self.interpolation: Interpolation = interpolation
        self.flip = flip

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        numbers = draw_for("resized_crop").uniform(NUMBERS + 1)
        boxes = crop_boxes(numbers[:, :NUMBERS], shape[1:], self.scale, self.ratio)
        return boxes, numbers[:, NUMBERS] < (0.5 if self.flip else 0.0)

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        boxes, flip = drawn
        return resize_boxes(pictures, boxes, flip, self.size, self.interpolation)

    def pixels(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        """uint8 [B, C, H, W] -> uint8 [B, C, size, size]."""
        shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        return self.apply(pixels, *self.draw(draw_for, shape, pixels.device))

    def __call__(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        return to_unit(self.pixels(pixels, draw_for))


class Middle:
    """Deterministic, for evaluation: scaled to size / share, and the middle cut out.

    size: side of the square, in pixels, at least 1; null: that of the stored picture.
    share: of the picture's side that is seen, above 0 to 1; 0.875 (224 of 256).
    interpolation: `bilinear` or `bicubic`, antialiased; bicubic.
    """

    def __init__(
        self,
        size: Count | None = 224,
        share: Share = 0.875,
        interpolation: Interpolation = "bicubic",
    ):
        self.size = size
        self.share = interval("share of a middle view", (share, share), 0, 1, above=True)[0]
        self.interpolation: Interpolation = interpolation

    def __call__(self, pixels: Tensor, draw_for: DrawFor | None = None) -> Tensor:
        size = self.size or pixels.shape[2]
        side = round(size / self.share)
        start = round((side - size) / 2)
        inner = slice(start, start + size)
        if tuple(pixels.shape[2:]) == (side, side):
            return to_unit(pixels[:, :, inner, inner])
        views = pixels.new_empty(*pixels.shape[:2], size, size)
        for rows in blocks(pixels):
            whole = scaled(pixels[rows].contiguous(), side, self.interpolation)
            views[rows] = whole[:, :, inner, inner]
        return to_unit(views)
