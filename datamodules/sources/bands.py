"""Pictures with other numbers of channels than PIL knows: arrays in .npy files, TIFF with bands."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from datamodules.picture_form import PictureForm
from foundation.errors import UserError

TIFF = (".tif", ".tiff")
BAND_ENDINGS = frozenset({".npy", *TIFF})
DEEP = 257  # levels of 16 bits in one of 8


def read_bands(path: str | Path, form: PictureForm) -> Tensor:
    """`bands_of` of a file. Raises UserError for one of another format."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return bands_of(np.load(path, allow_pickle=False), form)
    if suffix in TIFF:
        return bands_of(read_tiff(path), form)
    raise UserError(
        str(path),
        f"'{suffix}' has no pictures of {form.channels} channels",
        f"expected {', '.join(sorted(BAND_ENDINGS))}",
    )


def read_tiff(path: str | Path) -> np.ndarray[Any, Any]:
    """All bands of a TIFF, whether they are samples of a pixel or pages."""
    try:
        import tifffile
    except ImportError:
        remedy = "pip install 'roux[bands]', or save .npy files"
        raise UserError(str(path), "a TIFF with bands needs tifffile", remedy) from None
    return np.asarray(tifffile.imread(path))


def bands_of(values: np.ndarray[Any, Any], form: PictureForm) -> Tensor:
    """uint8 [C, H, W] of an array [H, W, C] or [C, H, W], brought to the form (bicubic).

    Where both ends have C entries, the last one are the channels. Raises UserError for another
    number of channels, and for values without a known range: expected are 8 bits, 16 bits, or
    floats in [0, 1].
    """
    axes = [axis for axis in (2, 0) if values.ndim == 3 and values.shape[axis] == form.channels]
    if not axes:
        problem = f"an array {list(values.shape)}"
        expected = f"expected [H, W, {form.channels}] (data.source.channels={form.channels})"
        raise UserError("channels", problem, expected)
    levels = levels_of(np.moveaxis(values, axes[0], 0))
    return brought(levels, form).round_().clamp_(0, 255).to(torch.uint8)


def levels_of(values: np.ndarray[Any, Any]) -> Tensor:
    """float32 in 0..255."""
    if values.dtype == np.uint8:
        return torch.from_numpy(values.astype(np.float32))
    if values.dtype == np.uint16:
        return torch.from_numpy(values.astype(np.float32) / DEEP)
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if low >= -1e-6 and high <= 1 + 1e-6:  # false for NaN
            return torch.from_numpy(values.astype(np.float32) * 255)
        raise UserError("values", f"floating from {low:g} to {high:g}", "expected [0, 1]")
    raise UserError("values", f"are {values.dtype}", "expected uint8, uint16 or floats in [0, 1]")


def brought(levels: Tensor, form: PictureForm) -> Tensor:
    """float32 [C, height, width] from [C, h, w]; see `PictureForm.fit`."""
    height, width = levels.shape[1:]
    ratios = (form.height / height, form.width / width)
    if form.fit == "crop":
        rows = middle(height, round(form.height / max(ratios)))
        columns = middle(width, round(form.width / max(ratios)))
        return scaled(levels[:, rows, columns], form.size)
    if form.fit == "squash":
        return scaled(levels, form.size)
    whole = (max(round(height * min(ratios)), 1), max(round(width * min(ratios)), 1))
    top, left = (round((outer - inner) / 2) for outer, inner in zip(form.size, whole, strict=True))
    margins = (left, form.width - whole[1] - left, top, form.height - whole[0] - top)
    return pad(scaled(levels, whole), margins, value=float(form.border))


def middle(side: int, length: int) -> slice:
    length = min(max(length, 1), side)
    start = round((side - length) / 2)
    return slice(start, start + length)


def scaled(levels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(levels.shape[1:]) == size:
        return levels
    return interpolate(levels[None], size, mode="bicubic", antialias=True, align_corners=False)[0]
