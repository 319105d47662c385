"""Cutout (arXiv 1708.04552): one box of every image is filled."""

import torch
from torch import Tensor


def box_mask(centre: Tensor, part: Tensor, height: int, width: int) -> Tensor:
    """True inside the box, [B, 1, H, W].

    centre: [B, 2] in [0, 1), (y, x) as fractions of the sides, rounded down to a pixel.
    part: [B], side of the box as a fraction of the image's, rounded down to s pixels.

    The box is [centre - s//2, centre - s//2 + s), clipped at the border.
    """
    inside = []
    for axis, side in enumerate((height, width)):
        length = (part * side).long()
        first = (centre[:, axis] * side).long() - length // 2
        place = torch.arange(side, device=centre.device)
        inside.append((place >= first[:, None]) & (place < (first + length)[:, None]))
    return inside[0][:, None, :, None] & inside[1][:, None, None, :]


def fill_for(channels: int, color: tuple[float, float, float]) -> tuple[float, ...]:
    """The color, or its luma for gray images."""
    if channels == 3:
        return color
    return (0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2],) * channels
