"""Reading pictures: any mode to 8 bits a channel, and a check that all files can be read."""

import hashlib
import io
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.names import printable
from datamodules.picture_form import PictureForm
from datamodules.sources.bands import BAND_ENDINGS, read_bands
from datamodules.sources.files import check_regular
from datamodules.sources.path_list import PathList
from datamodules.sources.standard import cache_folder
from foundation.errors import UserError

ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
BICUBIC = Image.Resampling.BICUBIC
WIDE_FORMATS = ("PNG", "PPM")  # their integer pixels have 16 bits
THREADS = 8
MANY = 5000  # pictures whose check takes long enough to be announced


def endings(form: PictureForm) -> frozenset[str]:
    """The endings of the files that are pictures of this form."""
    return BAND_ENDINGS if form.has_bands else ENDINGS


# -- conversion ------------------------------------------------------------------------------------
def fitted(picture: Image.Image, form: PictureForm) -> Tensor:
    """uint8 [C, H, W]: upright, brought to the form (bicubic).

    Raises UserError for pixels without a known range.
    """
    if form.has_bands:
        raise UserError(
            f"a picture of mode {picture.mode}",
            f"expected {form.channels} channels",
            "use .npy or .tif files, or data.source.channels=3",
        )
    upright = converted(ImageOps.exif_transpose(picture), form.mode, picture.format)
    array = np.array(sized(upright, form), dtype=np.uint8)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


def sized(picture: Image.Image, form: PictureForm) -> Image.Image:
    """A picture of the form's size, with its own channels."""
    size = (form.width, form.height)
    if form.fit == "squash":
        return picture.resize(size, BICUBIC)
    if form.fit == "pad":
        border = (form.border,) * form.channels
        return ImageOps.pad(picture, size, BICUBIC, color=border)
    return ImageOps.fit(picture, size, BICUBIC)


def converted(picture: Image.Image, mode: str, format: str | None = None) -> Image.Image:
    """The picture as `L` or `RGB`. 16 bits and floats in [0, 1] are scaled to 8 bits; transparent
    pixels are shown on white, not in the color that is stored under them.

    format: the file format, which PIL forgets when it turns a picture.
    """
    if picture.mode.startswith(("I", "F")):
        picture = eight_bits(picture, format or picture.format)
    if picture.mode == "La":  # PIL has no other way from it
        picture = picture.convert("LA")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture.convert("RGBA"))
        picture = ground
    if picture.mode == "LAB":  # PIL converts it to RGB alone
        picture = picture.convert("RGB")
    return picture.convert(mode)


def eight_bits(picture: Image.Image, format: str | None) -> Image.Image:
    """A gray picture of 16-bit integers or floats as `L`.

    The scale is that of the format, not of the picture's own extremes: equal pixels stay equal in
    all pictures. Raises UserError for 32-bit integers and floats outside [0, 1].
    """
    values = np.asarray(picture)
    if picture.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):  # also for NaN
            raise UserError(f"floating pixels from {low:g} to {high:g}; expected [0, 1]")
        scaled = values.astype(np.float64) * 255
    elif picture.mode.startswith("I;16") or format in WIDE_FORMATS:
        scaled = values.astype(np.float64) / 257
    else:
        raise UserError("pixels of 32-bit integers, whose range is unknown; save it with 16 bits")
    gray = scaled.round().clip(0, 255).astype(np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray)


def read_picture(path: str | Path, form: PictureForm, content: bytes | None = None) -> Tensor:
    """`fitted` of a file. Raises UserError if it cannot be read.

    content: of the file, where it is in memory; `path` is its name for messages.
    """
    shown = printable(str(path))
    if content is None:
        check_regular(path)
    try:
        if form.has_bands:
            return read_bands(path, form)
        with Image.open(path if content is None else io.BytesIO(content)) as picture:
            # lets JPEG decode at a fraction of its size
            picture.draft(form.mode, (form.width, form.height))
            return fitted(picture, form)
    except FileNotFoundError:
        raise UserError(shown, "no such file") from None
    except UserError as error:
        raise error.about(shown) from None
    except MemoryError:
        raise
    except Exception:  # the decoders raise a dozen types for damaged files
        raise UserError(
            shown, "not a picture that can be read", "repair or remove the file"
        ) from None


# -- check -----------------------------------------------------------------------------------------
def check_pictures(paths: Sequence[str], form: PictureForm) -> None:
    """Decode every picture. Raises UserError that names the first broken one and their number.

    Files that passed are not decoded again until one of them changes: a stamp in the cache folder
    has their names, sizes and times.
    """
    paths = PathList.of(paths)
    stamp = cache_folder() / "checked_pictures" / fingerprint(paths, form)
    if stamp.exists():
        return
    if len(paths) > MANY:
        print(
            f"checking once that {len(paths)} pictures can be read "
            "(data.source.check=none skips this)",
            file=sys.stderr,
        )
    errors: list[UserError] = []
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        # in blocks: what waits for a thread takes a kilobyte each
        for start in range(0, len(paths), MANY):
            results = pool.map(_error, paths[start : start + MANY], repeat(form))
            errors += [error for error in results if error is not None]
    if errors:
        first = errors[0]
        others = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise UserError(f"{first.key}{others}", first.problem, first.remedy)
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    except OSError:
        pass  # without a cache folder the next run checks again


def fingerprint(paths: PathList, form: PictureForm) -> str:
    """A digest of names, sizes and times of the files, and of what they are converted to."""
    digest = hashlib.blake2b(str(form).encode(), digest_size=16)
    whole = paths.compact()
    digest.update(whole.buffer)
    digest.update(whole.bounds.tobytes())
    digest.update(paths.status().tobytes())
    return digest.hexdigest()


def _error(path: str, form: PictureForm) -> UserError | None:
    try:
        read_picture(path, form)
    except UserError as error:
        return error
    return None
