"""Rotation, shear and translation as affine maps, and one nearest-neighbor resampling equal to
Pillow's.

A map takes the center of an output pixel to a point of the input, [x, y, 1] in pixels from the top
left corner. Maps of one sample compose by matrix product, so a chain of geometric operations costs
one resampling.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

# Pillow uses 16.16 fixed point; the same grid breaks ties the same way
FRACTION = 1 << 16


def identity_maps(batch: int, device: torch.device) -> Tensor:
    """float64 [batch, 3, 3]."""
    return torch.eye(3, dtype=torch.float64, device=device).expand(batch, 3, 3)


def maps_of(amount: Tensor, side: tuple[int, int]) -> Tensor:
    """Inverse maps [..., 3, 3] from amounts [..., 5]: rotate, shear x, shear y, translate x,
    translate y; at most one is nonzero.

    Rotation: degrees counter-clockwise about the center. Shear: pixels per pixel about the top left
    corner, as in Pillow. Translation: fraction of the width or height; positive values read further
    right or down.
    """
    height, width = side
    rotate, shear_x, shear_y, translate_x, translate_y = amount.unbind(-1)
    angle = -torch.deg2rad(rotate)
    cos, sin = angle.cos(), angle.sin()
    x = (cos, sin + shear_x, (width - cos * width - sin * height) / 2 + translate_x * width)
    y = (shear_y - sin, cos, (height + sin * width - cos * height) / 2 + translate_y * height)
    zero = torch.zeros_like(cos)
    return torch.stack([*x, *y, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))


def resample(pixels: Tensor, maps: Tensor, fill: int, chain: int = 14) -> Tensor:
    """out[p] = in[floor(map(p + 1/2))], `fill` outside the input. pixels: uint8 [B, C, H, W].

    chain: most operations that a map is composed of.
    """
    batch, channels, height, width = pixels.shape
    start = maps[:, :2, 2] + (maps[:, :2, 0] + maps[:, :2, 1]) * 0.5
    fixed = torch.cat([maps[:, :2, :2], start[:, :, None]], 2).mul(FRACTION).add_(0.5).floor_()
    fixed = fixed.to(walking(max(height, width), chain))
    across = fixed[:, :, 0, None] * torch.arange(width, dtype=fixed.dtype, device=pixels.device)
    down = (
        fixed[:, :, 1, None] * torch.arange(height, dtype=fixed.dtype, device=pixels.device)
        + fixed[:, :, 2, None]
    )
    x, y = ((across[:, i, None, :] + down[:, i, :, None]) >> 16 for i in (0, 1))
    # A frame of one pixel represents everything outside: clamping costs a quarter of masking.
    framed = pad(pixels, (1, 1, 1, 1), value=fill)
    index = y.clamp_(-1, height).mul_(width + 2).add_(x.clamp_(-1, width)).add_(width + 3)
    index = index.view(batch, 1, -1).long().expand(-1, channels, -1)
    return framed.flatten(2).gather(2, index).view_as(pixels)


def walking(side: int, chain: int) -> torch.dtype:
    """The integer type of coordinates: int32, which halves the memory, if none can overflow.

    No operation of the tables moves a point to more than 1.4 times its distance plus half a side:
    3 · 1.4ⁿ sides after n operations.
    """
    return torch.int32 if 3 * 1.4**chain * side < 1 << 15 else torch.int64
