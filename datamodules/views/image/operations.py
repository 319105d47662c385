"""The 14 operations of RandAugment and their application to a batch, different for each row."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.views.image import photometric
from datamodules.views.image.geometry import identity_maps, maps_of, resample
from foundation import devices

Operation = Literal[
    "identity",
    "autocontrast",
    "equalize",
    "solarize",
    "posterize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
OPERATIONS: tuple[str, ...] = get_args(Operation)  # the code of an operation is its index
PHOTOMETRIC = OPERATIONS[1:9]
GEOMETRIC = OPERATIONS[9:]
ENHANCE = OPERATIONS[5:9]
FIRST_GEOMETRIC = OPERATIONS.index(GEOMETRIC[0])
WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)
WITHOUT_PARAMETER = ("autocontrast", "equalize")


def rows_by_operation(codes: Tensor) -> list[tuple[Tensor, ...]]:
    """[slot][code] -> the rows that drew it, from codes [B, n].

    Row numbers on the CPU, so that only those rows are computed. Masks [B] on other devices, where
    the number of rows would need a sync.
    """
    slots = codes.shape[1]
    kinds = len(OPERATIONS)
    place = torch.arange(max(slots, kinds), device=codes.device)
    if not devices.readable(codes):
        return [tuple(masks) for masks in (codes.t()[:, None] == place[:kinds, None])]
    keys = (codes + place[:slots] * kinds).flatten()
    counts = keys.bincount(minlength=slots * kinds).tolist()
    rows = keys.argsort().div_(slots, rounding_mode="floor").split(counts)
    return [rows[slot * kinds : (slot + 1) * kinds] for slot in range(slots)]


def on_rows(
    pixels: Tensor, rows: Tensor, function: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """`function` applied to some rows. `pixels` may be overwritten.

    rows: row numbers, or a mask [B]; then all rows are computed and the others are discarded, which
        is cheaper than a sync.
    """
    if rows.dtype == torch.bool:
        return torch.where(rows[:, None, None, None], function(pixels, *parameters), pixels)
    if not len(rows):
        return pixels
    done = function(pixels.index_select(0, rows), *(p[rows] for p in parameters))
    words(pixels).index_copy_(0, rows, words(done))
    return pixels


def words(pixels: Tensor) -> Tensor:
    """[B, n]: the bytes of each row viewed as the widest possible integers, because the cost of
    writing rows is per element."""
    flat = pixels.flatten(1)
    # a view needs a row length and an offset that are multiples of the integer's size
    divisor = math.gcd(flat.shape[1], flat.storage_offset())
    return next(flat.view(kind) for kind in WORDS if divisor % kind.itemsize == 0)


def apply_operations(
    pixels: Tensor, codes: Tensor, values: Tensor, pool: tuple[str, ...], fill: int
) -> Tensor:
    """Apply to each row its operations, in the order of the slots.

    pixels: uint8 [B, C, H, W], overwritten.
    codes: int64 [B, n], indices in OPERATIONS.
    values: float64 [B, n].
    pool: the operations that can occur.
    fill: gray level 0..255 of pixels from outside the frame.

    Geometric operations of a row without a photometric one in between are composed into one
    resampling: fewer nearest-neighbor roundings, and pixels that one operation moves out of the
    frame can be moved back by the next. Pillow applies them one by one and loses such pixels.
    """
    photo = [name for name in PHOTOMETRIC if name in pool and acts(name, pixels)]
    rows = rows_by_operation(codes)
    still = identity_maps(len(pixels), pixels.device)
    steps = None
    if any(name in pool for name in GEOMETRIC):
        steps = geometric_maps(codes, values, (pixels.shape[2], pixels.shape[3]))
    maps = still
    moved = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    for slot, value in enumerate(values.unbind(1)):
        code = codes[:, slot]
        if steps is not None and photo and slot:
            due = moved & (code > 0) & (code < FIRST_GEOMETRIC)
            pixels = _resample_where(pixels, due, maps, fill, slot)
            moved = moved & ~due
            maps = torch.where(due[:, None, None], still, maps)
        for name in photo:
            parameters = () if name in WITHOUT_PARAMETER else (value,)
            chosen = rows[slot][OPERATIONS.index(name)]
            pixels = on_rows(pixels, chosen, getattr(photometric, name), *parameters)
        if steps is not None:
            maps = maps @ steps[:, slot]
            moved = moved | (code >= FIRST_GEOMETRIC)
    if steps is None:
        return pixels
    return _resample_where(pixels, moved, maps, fill, codes.shape[1])


def acts(name: str, pixels: Tensor) -> bool:
    """Whether an operation can change images of this shape.

    As in Pillow, color does not change gray images, and equalize none of at most 255 pixels, whose
    histogram has steps of zero. Skipping them matters because the cost of small images is that of
    kernel launches.
    """
    _, channels, height, width = pixels.shape
    if name == "color":
        return channels > 1
    return name != "equalize" or height * width > 255


def _resample_where(pixels: Tensor, moved: Tensor, maps: Tensor, fill: int, chain: int) -> Tensor:
    rows = moved.nonzero().squeeze(1) if devices.readable(pixels) else moved
    return on_rows(pixels, rows, partial(resample, fill=fill, chain=chain), maps)


def geometric_maps(codes: Tensor, values: Tensor, side: tuple[int, int]) -> Tensor:
    """Inverse maps [B, n, 3, 3] of the operations `codes` [B, n] with `values`; identity maps for
    photometric operations."""
    kinds = torch.arange(len(GEOMETRIC), device=codes.device) + FIRST_GEOMETRIC
    part = torch.where(codes[..., None] == kinds, values[..., None], 0.0)
    return maps_of(part, side)
