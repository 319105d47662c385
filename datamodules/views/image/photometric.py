"""The photometric operations on uint8 pictures [B, C, H, W], each row with its own parameter [B].

Identical to Pillow's ImageOps and ImageEnhance: the same integer arithmetic, the same truncation,
and uint8 results after every operation.
"""

import torch
from torch import Tensor


def _column(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]


def _to_grid(levels: Tensor) -> Tensor:
    """Gray levels clipped and truncated to uint8. Via int16, because torch's conversion from float
    to uint8 is not vectorized."""
    return levels.clamp_(0, 255).to(torch.int16).to(torch.uint8)


def _blend(base: Tensor, picture: Tensor, factor: Tensor) -> Tensor:
    """base + factor (picture - base), clipped and truncated. `base`, `picture`: float32 in 0..255;
    factor 1 is the identity."""
    return _to_grid((picture - base).mul_(_column(factor.float())).add_(base))


def _grey(picture: Tensor) -> Tensor:
    """ITU-R 601 luma, rounded, [B, 1, H, W]; the weights are 16-bit fixed point, so all sums are
    exact in float32. Of other channels than one or three: their rounded mean."""
    if picture.shape[1] == 1:
        return picture
    if picture.shape[1] != 3:
        return picture.mean(1, keepdim=True).add_(0.5).floor_()
    red, green, blue = picture.unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471).add_(32768).div_(65536).floor_().unsqueeze(1)


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Black at 0, unchanged at 1."""
    return _to_grid(pixels.float().mul_(_column(factor.float())))


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """The picture's mean grey at 0, unchanged at 1."""
    picture = pixels.float()
    count = picture.shape[2] * picture.shape[3]
    total = _grey(picture).sum((2, 3), keepdim=True, dtype=torch.float64)
    return _blend(total.div_(count).add_(0.5).floor_().float(), picture, factor)


def color(pixels: Tensor, factor: Tensor) -> Tensor:
    """Greyscale at 0, unchanged at 1. A grey picture has no colour to change."""
    picture = pixels.float()
    return _blend(_grey(picture), picture, factor)


def sharpness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 at 0, unchanged at 1; the border pixels
    are never smoothed."""
    width = pixels.shape[3]
    picture = pixels.float()
    flat = pixels.flatten().short()
    # All pixels as one line: sums across image borders are wrong, but the border is restored below.
    lines = (flat[:-2] + flat[1:-1]).add_(flat[2:])
    box = (lines[: -2 * width] + lines[width:-width]).add_(lines[2 * width :])
    inner = slice(width + 1, -width - 1)
    smooth = torch.empty_like(picture)
    smooth.view(-1)[inner] = box.add_(flat[inner] * 4).float().div_(13).add_(0.5).floor_()
    for edge in (0, -1):
        smooth[:, :, edge] = picture[:, :, edge]
        smooth[:, :, :, edge] = picture[:, :, :, edge]
    return _blend(smooth, picture, factor)


def autocontrast(pixels: Tensor) -> Tensor:
    """Stretch each channel to 0..255. In float64, because truncation is sensitive to the last bit
    of the scale."""
    spread = pixels.flatten(2)
    low, high = spread.amin(2, keepdim=True).double(), spread.amax(2, keepdim=True).double()
    flat = high == low
    reach = torch.where(flat, 255.0, high - low)
    # not `255 / reach`: torch computes reciprocal times 255, whose last bit differs
    scale = torch.full_like(reach, 255.0).div_(reach)
    offset = torch.where(flat, 0.0, -low * scale)
    levels = torch.arange(256, dtype=torch.float64, device=pixels.device)
    return _to_grid((levels * scale).add_(offset)).gather(2, spread.long()).view_as(pixels)


def equalize(pixels: Tensor) -> Tensor:
    """Flatten each channel's histogram. Images of at most 255 pixels have steps of zero and are not
    changed."""
    batch, channels, height, width = pixels.shape
    index = pixels.flatten(2).long()
    ones = index.new_ones(1).expand_as(index)
    counts = index.new_zeros(batch, channels, 256).scatter_add_(2, index, ones)
    last = counts.gather(2, pixels.flatten(2).amax(2, keepdim=True).long())
    step = (height * width - last).div_(255, rounding_mode="floor")
    below = counts.cumsum(2).sub_(counts)
    mapped = below.add_(step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    mapped = torch.where(step == 0, torch.arange(256, device=pixels.device), mapped)
    return mapped.to(torch.uint8).gather(2, index).view_as(pixels)


def solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    """Invert pixels at or above the threshold, 0..256; 256 is the identity."""
    # 255 - p flips all bits of p: an XOR is several times faster than `where`, whose branches a
    # processor mispredicts
    inverted = pixels >= _column(threshold.clamp(max=255).to(torch.uint8))
    mask = _column((threshold < 256).to(torch.uint8) * 255)
    return inverted.view(torch.uint8).mul_(mask).bitwise_xor_(pixels)


def posterize(pixels: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits, 1..8; 8 is the identity."""
    kept = 256 - torch.exp2(8 - bits.clamp(0, 8)).long()
    return pixels & _column(kept.to(torch.uint8))
