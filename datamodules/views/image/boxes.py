"""Random boxes in pictures, as torchvision's RandomResizedCrop and RandomErasing draw them, for a
whole batch: ten tries a row, of which the first that fits is taken."""

import math

import torch
from torch import Tensor

TRIES = 10
NUMBERS = 2 * TRIES + 2  # of a row
Span = tuple[float, float]


def tried_lengths(numbers: Tensor, sides: tuple[int, int], scale: Span, ratio: Span) -> Tensor:
    """float64 [B, TRIES, 2], height and width: an area uniform in `scale` of the picture's, an
    aspect (width over height) log-uniform in `ratio`."""
    number = numbers[:, : 2 * TRIES].double()
    share, place = number[:, :TRIES], number[:, TRIES:]
    area = (scale[0] + (scale[1] - scale[0]) * share) * (sides[0] * sides[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * place)
    return torch.stack([(area / aspect).sqrt().round(), (area * aspect).sqrt().round()], -1)


def first_fitting(lengths: Tensor, fits: Tensor, fallback: tuple[int, int]) -> Tensor:
    """float64 [B, 2]: the first lengths of each row that fit, else the fallback."""
    # filled on the device: copying the numbers there would sync
    last = torch.stack([lengths.new_full((len(lengths), 1), float(n)) for n in fallback], 2)
    anyhow = fits.new_ones(len(fits), 1)
    # argmax of equal values is the first
    first = torch.cat([fits, anyhow], 1).to(torch.uint8).argmax(1)
    every = torch.cat([lengths, last], 1)
    return every.gather(1, first[:, None, None].expand(-1, 1, 2)).squeeze(1)


def placed(lengths: Tensor, numbers: Tensor, sides: tuple[int, int], middle: Tensor) -> Tensor:
    """int64 [B, 4]: top, left, height, width. middle: rows [B] whose box is centered."""
    corner = []
    for axis, side in enumerate(sides):
        room = side - lengths[:, axis]
        anywhere = (numbers[:, axis - 2].double() * (room + 1)).floor()
        corner.append(torch.where(middle, (room / 2).floor(), anywhere))
    return torch.cat([torch.stack(corner, 1), lengths], 1).long()


def crop_boxes(numbers: Tensor, sides: tuple[int, int], scale: Span, ratio: Span) -> Tensor:
    """The boxes of `RandomResizedCrop`, int64 [B, 4]. numbers: [B, NUMBERS] in [0, 1).

    A row that never fits gets the largest box in the middle whose aspect is in `ratio`.
    """
    height, width = sides
    lengths = tried_lengths(numbers, sides, scale, ratio)
    fits = (lengths >= 1).all(-1) & (lengths[..., 0] <= height) & (lengths[..., 1] <= width)
    aspect = width / height
    fallback = (height, width)
    if aspect < ratio[0]:
        fallback = (round(width / ratio[0]), width)
    elif aspect > ratio[1]:
        fallback = (height, round(height * ratio[1]))
    chosen = first_fitting(lengths, fits, fallback)
    return placed(chosen, numbers, sides, ~fits.any(1))


def erase_boxes(numbers: Tensor, sides: tuple[int, int], scale: Span, ratio: Span) -> Tensor:
    """The boxes of `RandomErasing`, int64 [B, 4], smaller than the picture on both sides. Empty in
    a row that never fits. Its aspect is height over width."""
    lengths = tried_lengths(numbers, sides, scale, ratio).flip(-1)
    fits = (lengths[..., 0] < sides[0]) & (lengths[..., 1] < sides[1])
    return placed(first_fitting(lengths, fits, (0, 0)), numbers, sides, ~fits.any(1))


def inside(boxes: Tensor, sides: tuple[int, int]) -> Tensor:
    """True inside the box, [B, 1, H, W]."""
    masks = []
    for axis, side in enumerate(sides):
        place = torch.arange(side, device=boxes.device)
        first = boxes[:, axis, None]
        masks.append((place >= first) & (place < first + boxes[:, axis + 2, None]))
    return masks[0][:, None, :, None] & masks[1][:, None, None, :]
