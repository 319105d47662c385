"""Color jitter, solarization, blur and grey on pictures in [0, 1]: the arithmetic of torchvision on
floating pictures [B, C, H, W], each row with its own parameter [B]."""

from collections.abc import Callable

import torch
from torch import Tensor

from foundation import devices

LUMA = (0.2989, 0.587, 0.114)  # torchvision's


def column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def grey(pictures: Tensor) -> Tensor:
    """[B, 1, H, W]: the luma of colours, the mean of other channels."""
    if pictures.shape[1] == 3:
        red, green, blue = pictures.unbind(1)
        luma = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
        return luma.unsqueeze(1)
    return pictures.mean(1, keepdim=True)


def blended(pictures: Tensor, base: Tensor, factor: Tensor) -> Tensor:
    """base + factor (picture - base), clipped to [0, 1]. `pictures` is overwritten."""
    part = column(factor)
    return pictures.mul_(part).add_(base * (1 - part)).clamp_(0, 1)


def shifted_hue(pictures: Tensor, turn: Tensor) -> Tensor:
    """Colours whose hue is turned by a share of the circle [B], in HSV."""
    red, green, blue = pictures.unbind(1)
    high = pictures.amax(1)
    spread = high - pictures.amin(1)
    plain = spread == 0
    divisor = torch.where(plain, 1.0, spread)
    to_red, to_green, to_blue = ((high - c) / divisor for c in (red, green, blue))
    hue = torch.where(
        red == high,
        to_blue - to_green,
        torch.where(green == high, 2 + to_red - to_blue, 4 + to_green - to_red),
    )
    hue = (hue / 6 + turn[:, None, None]) % 1
    saturation = spread / torch.where(high == 0, 1.0, high)
    # n-th channel of HSV: v - v s max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6
    channels = []
    for start in (5, 3, 1):
        k = (start + 6 * hue) % 6
        lowered = torch.minimum(k, 4 - k).clamp_(0, 1)
        channels.append(high - high * saturation * lowered)
    return torch.stack(channels, 1).clamp_(0, 1)


def solarized(pictures: Tensor, threshold: float) -> Tensor:
    """Inverted at or above the threshold."""
    return torch.where(pictures >= threshold, 1 - pictures, pictures)


def blurred(pictures: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Gaussian of standard deviation `sigma` [B] pixels, cut off `reach` pixels from its middle;
    the border is reflected."""
    taps = torch.arange(-reach, reach + 1, device=pictures.device, dtype=sigma.dtype)
    weight = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    weight = (weight / weight.sum(1, keepdim=True)).to(pictures.dtype)
    for axis in (2, 3):
        pictures = along(pictures, weight, reach, axis)
    return pictures


def along(pictures: Tensor, weight: Tensor, reach: int, axis: int) -> Tensor:
    """A symmetric filter along one axis: two lines at the same distance share a product."""
    side = pictures.shape[axis]
    margins = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
    wide = torch.nn.functional.pad(pictures, margins, mode="reflect")
    total = pictures * column(weight[:, reach])
    for step in range(1, reach + 1):
        pair = wide.narrow(axis, reach - step, side) + wide.narrow(axis, reach + step, side)
        total.add_(pair.mul_(column(weight[:, reach + step])))
    return total


def on_float_rows(
    pictures: Tensor, rows: Tensor, function: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """`function` on the rows where the mask [B] is True. `pictures` may be overwritten.

    On the host only those are computed; elsewhere all of them, because counting them would sync.
    """
    if not devices.readable(pictures):
        return torch.where(column(rows), function(pictures, *parameters), pictures)
    chosen = rows.nonzero().squeeze(1)
    if not len(chosen):
        return pictures
    changed = function(pictures[chosen], *(values[chosen] for values in parameters))
    pictures[chosen] = changed
    return pictures
