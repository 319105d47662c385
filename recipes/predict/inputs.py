"""From files, pictures, arrays and strings to the views that a network gets in evaluation."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.names import expanded, is_unicode, printable
from datamodules.picture_form import PictureForm
from datamodules.sources.bands import bands_of
from datamodules.sources.pictures import fitted, read_picture
from datamodules.sources.text import TextSource
from datamodules.text.codec import Codec
from datamodules.text.tokenizer import TextTokenizer
from foundation.errors import UserError

View = Callable[..., Any]


class Reader(Protocol):
    """Converts raw inputs of one modality to a batch."""

    def items(self, inputs: Any) -> tuple[list[Any], bool]:
        """The single inputs, and whether only one was given instead of a list."""
        ...

    def read(self, item: Any) -> Any:
        """One input in memory. Raises UserError if it is invalid."""
        ...

    def view(self, items: list[Any], device: torch.device) -> Any:
        """The raw view of a batch."""
        ...


def nothing_drawn(purpose: str) -> Any:
    raise ValueError(f"the view of evaluation must not draw random numbers ('{purpose}')")


class Pictures:
    """Paths, PIL images, arrays and tensors. Files and PIL images are brought to the form of the
    run's stored pictures.

    Arrays: uint8 [H, W] or [H, W, C], converted likewise if their shape is not that of the data.
    Tensors: [C, H, W], uint8 likewise, or floating in [0, 1], not converted. One more leading
    dimension is a batch; so is an array [N, H, W] of gray images of the data's size.
    """

    def __init__(self, view: View, form: PictureForm):
        self.raw = view
        self.form = form
        self.shape = form.shape

    def items(self, inputs: Any) -> tuple[list[Any], bool]:
        if isinstance(inputs, (str, Path, Image.Image)):
            return [inputs], True
        if isinstance(inputs, (np.ndarray, Tensor)):
            dimensions = (2, 3) if isinstance(inputs, np.ndarray) else (3,)
            alone = inputs.ndim in dimensions and not self.grey_batch(inputs)
            return ([inputs], True) if alone else (list(inputs), False)
        if not isinstance(inputs, Iterable):
            raise UserError(f"inputs: got {type(inputs).__name__}; {self.expected}")
        return list(inputs), False

    def grey_batch(self, inputs: Any) -> bool:
        """Whether inputs are an array [N, H, W] of gray images of the data's size, and not one
        image with W channels."""
        if not isinstance(inputs, np.ndarray) or inputs.ndim != 3:
            return False
        return (1, *inputs.shape[1:]) == self.shape and inputs.shape[2] not in (1, 3, 4)

    @property
    def expected(self) -> str:
        return (
            "expected pictures: paths, PIL pictures, uint8 arrays [H, W, C], tensors [C, H, W], "
            "or a list of such"
        )

    def read(self, item: Any) -> Tensor:
        if isinstance(item, (str, Path)):
            path = expanded(item)
            if not path.exists() and not path.is_symlink():
                raise UserError(f"{printable(str(item))}: no such file")
            return read_picture(path, self.form)
        if isinstance(item, Image.Image):
            return self.from_pil(item)
        if isinstance(item, np.ndarray):
            return self.of_bands(item) if self.form.has_bands else self.sized(self.from_array(item))
        if isinstance(item, Tensor) and item.ndim == 3:
            return self.sized(item)
        raise UserError(f"inputs: got {described(item)}; {self.expected}")

    def from_pil(self, item: Image.Image) -> Tensor:
        try:
            return fitted(item, self.form)
        except UserError as error:
            raise error.about("inputs") from None
        except (OSError, SyntaxError, ValueError) as error:  # PIL reads a file when it is needed
            raise UserError("inputs", f"a picture that cannot be read ({error})") from None

    def of_bands(self, item: np.ndarray) -> Tensor:
        try:
            return bands_of(item, self.form)
        except UserError as error:
            raise error.about("inputs") from None

    def from_array(self, item: np.ndarray) -> Tensor:
        grey = item.ndim == 2
        if item.dtype != np.uint8 or not (grey or item.ndim == 3):
            raise UserError(f"inputs: got {described(item)}; expected uint8 [H, W] or [H, W, C]")
        pixels = torch.from_numpy(np.ascontiguousarray(item))
        return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)

    def sized(self, pixels: Tensor) -> Tensor:
        """[C, H, W] with the data's channels; uint8 of another shape is converted like a PIL
        image."""
        if pixels.is_floating_point() and not in_unit_range(pixels):
            low, high = float(pixels.min()), float(pixels.max())
            raise UserError(
                f"inputs: got {described(pixels)} from {low:g} to {high:g}; expected uint8, or "
                "floating in [0, 1]"
            )
        known = pixels.dtype == torch.uint8 or pixels.is_floating_point()
        if known and tuple(pixels.shape) == self.shape:
            return pixels
        if pixels.dtype == torch.uint8 and len(pixels) in (1, 3, 4):
            array = pixels.cpu().permute(1, 2, 0).numpy()
            array = array[:, :, 0] if len(pixels) == 1 else array
            return fitted(Image.fromarray(array), self.form)
        if pixels.is_floating_point() and len(pixels) == self.shape[0]:
            return pixels
        raise UserError(
            f"inputs: got {described(pixels)}; expected [C, H, W] as {list(self.shape)}, uint8 or "
            "floating in [0, 1]"
        )

    def view(self, items: list[Any], device: torch.device) -> Tensor:
        pictures = [self.read(item) for item in items]
        if not pictures:
            empty = torch.zeros(1, *self.shape, dtype=torch.uint8, device=device)
            return self.raw(empty, nothing_drawn)[:0]
        if len({picture.shape for picture in pictures}) > 1:
            raise UserError(
                "inputs: floating tensors of different sizes in one batch; give them one by one"
            )
        if all(picture.dtype == torch.uint8 for picture in pictures):
            return self.raw(torch.stack(pictures).to(device), nothing_drawn)
        return torch.cat([self.unit(picture.to(device)) for picture in pictures])

    def unit(self, picture: Tensor) -> Tensor:
        one = picture.unsqueeze(0)
        return self.raw(one, nothing_drawn) if picture.dtype == torch.uint8 else one.float()


class Texts:
    """Strings, tokenized and truncated as in the run."""

    def __init__(self, view: Any, tokenizer: TextTokenizer, max_length: int):
        self.raw = view
        self.tokenizer = tokenizer
        self.max_length = max_length

    def items(self, inputs: Any) -> tuple[list[Any], bool]:
        if isinstance(inputs, str):
            return [inputs], True
        if not isinstance(inputs, Iterable):
            raise UserError(
                f"inputs: got {type(inputs).__name__}; expected a text, or a list of texts"
            )
        return list(inputs), False

    def read(self, item: Any) -> str:
        if not isinstance(item, str):
            raise UserError(
                f"inputs: got {described(item)}; expected texts, because the run was trained on "
                "texts"
            )
        if not is_unicode(item):
            raise UserError(f"inputs: '{printable(item)[:60]}' is not valid Unicode")
        return item

    def view(self, items: list[Any], device: torch.device) -> Mapping[str, Tensor]:
        source = TextSource([self.read(item) for item in items], {}, {})
        # a word table of this batch only: one for all texts would grow without bound
        source.encode(Codec(self.tokenizer, self.max_length))
        self.raw.fit(source)
        data = source.fetch(torch.arange(len(source)))
        return self.raw(data | {"words": data["words"].to(device)}, nothing_drawn)


def in_unit_range(pixels: Tensor) -> bool:
    """Whether all values are in [0, 1], up to rounding; False for NaN."""
    if not pixels.numel():
        return True
    low, high = pixels.aminmax()
    return bool(low >= -1e-4) and bool(high <= 1 + 1e-4)


def described(item: Any) -> str:
    """A value in a message: its type, and its shape if it has one."""
    if isinstance(item, (np.ndarray, Tensor)):
        kind = "an array" if isinstance(item, np.ndarray) else "a tensor"
        return f"{kind} {list(item.shape)} of {str(item.dtype).removeprefix('torch.')}"
    return type(item).__name__
