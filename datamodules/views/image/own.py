"""A transform of one's own as a view: a callable of torchvision v2, of albumentations, or any
other, one picture at a time."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.picture_form import PictureForm
from datamodules.views.image.raw import DrawFor, to_unit
from foundation.errors import UserError, first_line
from foundation.types import Count

if TYPE_CHECKING:
    from PIL import Image

Given = Literal["auto", "tensor", "pil", "array"]
SEEDS = 2**31
ALBUMENTATIONS = "albumentations"
REMEDY = "expected one picture, uint8 or floating in [0, 1]; networks normalize by themselves"


# -- random numbers --------------------------------------------------------------------------------
@contextmanager
def libraries_restored() -> Iterator[None]:
    """Afterwards the default generators that transforms draw from are where they were."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


def seed_libraries(seed: int, transform: Any) -> None:
    """Seed what a transform may draw from: `random`, NumPy, torch, and generators of its own where
    it has `set_random_seed`, as albumentations has."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    own = getattr(transform, "set_random_seed", None)
    if callable(own):
        own(seed)


# -- from a tensor and back ------------------------------------------------------------------------
def as_array(pixels: Tensor) -> np.ndarray[Any, Any]:
    """uint8 [H, W, C]."""
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def as_pil(pixels: Tensor) -> "Image.Image":
    from PIL import Image  # only where a view asks for it: it costs a tenth of a second

    array = as_array(pixels)
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


GIVE: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda pixels: pixels,
    "pil": as_pil,
    "array": as_array,
}


def as_tensor(found: Any) -> Tensor | None:
    """[C, H, W] of what a transform gave; None if it is no picture."""
    if isinstance(found, dict):
        found = found.get("image")
    if any(kind.__module__ == "PIL.Image" for kind in type(found).__mro__):
        found = np.array(found)
    if isinstance(found, np.ndarray):
        if found.ndim not in (2, 3):
            return None
        planes = found[:, :, None] if found.ndim == 2 else found
        return torch.from_numpy(np.ascontiguousarray(planes)).permute(2, 0, 1)
    # torchvision's own kinds of tensors would slow down what follows
    return found.as_subclass(Tensor) if isinstance(found, Tensor) else None


def shown(found: Any) -> str:
    """What a transform gave, for a message."""
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
    return f"a {type(found).__name__}"


# -- the view --------------------------------------------------------------------------------------
class Own:
    """Your transform, called for each picture where the samples are fetched: in the loader's
    workers, or in the process without them.

    Random numbers it draws from `random`, `numpy.random`, torch's default generator, or a generator
    that its `set_random_seed` seeds, are a function of the run's seed, the step and the sample's
    place in the batch, so that a resumed run sees the same pictures.

    transform: callable by `_target_`: picture in, picture out, uint8 or floating in [0, 1].
    given: what it gets: `tensor` (uint8 [C, H, W]), `pil` or `array` (uint8 [H, W, C]); `auto`: an
        array for albumentations, by the name `image`, else a tensor.
    size: side of the squares it gives, in pixels; null: that of the stored pictures.
    """

    on_host = True

    def __init__(self, transform: Any = None, given: Given = "auto", size: Count | None = None):
        self.transform = transform
        self.size = size
        self.seeded = True
        module = type(transform).__module__
        self.by_name = module.split(".")[0] == ALBUMENTATIONS
        self.given = ("array" if self.by_name else "tensor") if given == "auto" else given
        if transform is not None and not callable(transform):
            problem = f"{type(transform).__name__} cannot be called"
            raise UserError("data.views: transform", problem, "expected a callable by _target_")

    @property
    def name(self) -> str:
        """The transform in a message."""
        made = self.transform
        if isinstance(made, partial):  # a function by `_target_` with `_partial_: true`
            made = made.func
        plain = getattr(made, "__name__", None)
        return f"data.views: transform {plain or type(made).__name__}"

    def fixed(self) -> "Own":
        """The same with equal seeds for all pictures, for evaluation."""
        view = copy.copy(self)
        view.seeded = False
        return view

    def seeds(self, rows: int, draw_for: DrawFor | None) -> list[int]:
        if not self.seeded or draw_for is None:
            return [0] * rows
        return draw_for("own").integers(0, SEEDS).tolist()

    def made(self, pixels: Tensor, seeds: Sequence[int]) -> Tensor:
        """The views of uint8 [B, C, H, W] on the host: uint8, or float32 if one of them is."""
        channels, height, width = pixels.shape[1:]
        size = (height, width) if self.size is None else (self.size, self.size)
        with libraries_restored():
            views = [
                self.one(picture, seed, (channels, *size))
                for picture, seed in zip(pixels, seeds, strict=True)
            ]
        if not views:
            return torch.zeros(0, channels, *size, dtype=torch.uint8)
        if any(view.is_floating_point() for view in views):
            views = [view if view.is_floating_point() else to_unit(view) for view in views]
        return torch.stack(views)

    def one(self, pixels: Tensor, seed: int, shape: tuple[int, int, int]) -> Tensor:
        """The view of one picture. Raises UserError for what is none of this shape."""
        if self.transform is None:
            raise UserError("data.views: transform", "is null", "expected a callable by _target_")
        picture = GIVE[self.given](pixels.clone())
        seed_libraries(seed, self.transform)
        try:
            found = self.transform(image=picture) if self.by_name else self.transform(picture)
        except UserError:
            raise
        except Exception as error:  # whatever a stranger's transform raises
            reason = f"{type(error).__name__}: {first_line(error)[:200]}"
            raise UserError(self.name, f"raised {reason}", "see `given` of the view") from error
        return self.checked(found, shape)

    def checked(self, found: Any, shape: tuple[int, int, int]) -> Tensor:
        view = as_tensor(found)
        if view is None:
            raise UserError(self.name, f"gave {shown(found)}", REMEDY)
        if tuple(view.shape) != shape:
            expected = f"expected {list(shape)} (size of the view: {shape[1]})"
            raise UserError(self.name, f"gave {shown(view)}", expected)
        if view.dtype == torch.uint8:
            return view
        if not view.is_floating_point():
            raise UserError(self.name, f"gave {shown(view)}", REMEDY)
        low, high = (float(end) for end in view.aminmax())
        # also false for NaN
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise UserError(self.name, f"gave {shown(view)} from {low:g} to {high:g}", REMEDY)
        return view.float()

    def try_on(self, form: PictureForm) -> None:
        """Raises UserError for a transform that does not fit, or whose numbers no seed sets."""
        if self.transform is None:
            return
        noise = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (2, *form.shape), generator=noise).to(torch.uint8)
        first, second = (self.made(pixels, [1, 2]) for _ in range(2))
        if not torch.equal(first, second):
            problem = "gives other pictures for equal seeds, so that a resumed run would differ"
            remedy = "draw from random, numpy.random or torch, or have a set_random_seed"
            raise UserError(self.name, problem, remedy)

    def __call__(self, pixels: Tensor, draw_for: DrawFor | None = None) -> Tensor:
        """The view where none was made with the batch."""
        views = self.made(pixels.cpu(), self.seeds(len(pixels), draw_for)).to(pixels.device)
        return views if views.is_floating_point() else to_unit(views)
