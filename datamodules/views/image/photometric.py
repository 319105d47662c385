"""The photometric operations on uint8 pictures [B, C, H, W], C in {1, 3}, each row with its own parameter [B].

Equal to Pillow's ImageOps and ImageEnhance to the grey level: the same integer arithmetic, the same truncation, and
a result on the uint8 grid after every operation.
"""

import torch
from torch import Tensor


def _column(parameter: Tensor) -> Tensor:
    return parameter[:, None, None, None]


def _blend(base: Tensor, picture: Tensor, factor: Tensor) -> Tensor:
    """base + factor (picture - base), clipped, truncated. `base`, `picture`: float32 in 0..255; 1 is the identity."""
    mixed = (picture - base).mul_(_column(factor.float())).add_(base)
    return mixed.clamp_(0, 255).to(torch.uint8)


def _grey(picture: Tensor) -> Tensor:
    """ITU-R 601 luma, rounded, [B, 1, H, W]; the weights are 16-bit fixed point, so all sums are exact in float32."""
    if picture.shape[1] == 1:
        return picture
    red, green, blue = picture.unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471).add_(32768).div_(65536).floor_().unsqueeze(1)


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Black at 0, unchanged at 1."""
    return pixels.float().mul_(_column(factor.float())).clamp_(0, 255).to(torch.uint8)


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
    """Smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 at 0, unchanged at 1; the border pixels are never smoothed."""
    picture = pixels.float()
    smooth = picture.clone()
    lines = picture[:, :, :-2] + picture[:, :, 1:-1] + picture[:, :, 2:]
    box = (lines[..., :-2] + lines[..., 1:-1]).add_(lines[..., 2:])
    smooth[:, :, 1:-1, 1:-1] = box.add_(picture[:, :, 1:-1, 1:-1], alpha=4).div_(13).add_(0.5).floor_()
    return _blend(smooth, picture, factor)


def autocontrast(pixels: Tensor) -> Tensor:
    """Stretch each channel to 0..255. float64, because truncation makes the last bit of the scale visible."""
    picture = pixels.double()
    low, high = picture.amin((2, 3), keepdim=True), picture.amax((2, 3), keepdim=True)
    flat = high == low
    reach = torch.where(flat, 255.0, high - low)
    # A number divided by a tensor is its reciprocal times the number: two roundings, and another last bit.
    scale = torch.full_like(reach, 255.0).div_(reach)
    offset = torch.where(flat, 0.0, -low * scale)
    return picture.mul_(scale).add_(offset).clamp_(0, 255).to(torch.uint8)


def equalize(pixels: Tensor) -> Tensor:
    """Flatten each channel's histogram. Pictures of at most 255 pixels have steps of zero and stay as they are."""
    batch, channels, height, width = pixels.shape
    index = pixels.flatten(2).long()
    ones = index.new_ones(1).expand_as(index)
    counts = index.new_zeros(batch, channels, 256).scatter_add_(2, index, ones)
    last = counts.gather(2, index.amax(2, keepdim=True))
    step = (height * width - last).div_(255, rounding_mode="floor")
    below = counts.cumsum(2) - counts
    mapped = (below + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    mapped = torch.where(step == 0, torch.arange(256, device=pixels.device), mapped)
    return mapped.to(torch.uint8).gather(2, index).view_as(pixels)


def solarize(pixels: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is not below the threshold, 0..256; 256 is the identity."""
    return torch.where(pixels < _column(threshold.to(torch.int16)), pixels, 255 - pixels)


def posterize(pixels: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` bits, 1..8; 8 is the identity."""
    kept = 256 - torch.exp2(8 - bits.clamp(0, 8)).long()
    return pixels & _column(kept.to(torch.uint8))
