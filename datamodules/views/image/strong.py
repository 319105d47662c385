"""The strong view: weak flip and shift, then RandAugment, then Cutout."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from datamodules.views.image.cutout import box_mask, fill_for
from datamodules.views.image.operations import OPERATIONS, Operation, apply_operations
from datamodules.views.image.randaugment import VARIANTS, Name, level_of, values_of
from datamodules.views.image.raw import DrawFor, to_unit
from datamodules.views.image.weak import Weak
from foundation.errors import UserError, nearest


class Strong:
    """Weak view, then `n` operations drawn from the pool with replacement, each applied with
    `probability`, then Cutout.

    weak: flip and shift, with a draw of this view's own. None: the default `Weak()`.
    variant: the table of parameters (see `randaugment`). `fixmatch` is that of the authors' code.
    n: operations per image. None: the variant's published value.
    probability: of applying each operation. None: the variant's published value.
    magnitude: for variant `nm` only: 0 (no change) .. 30.
    magnitude_mode: for variant `nm` only: `constant` is the same for all samples, `random` uniform
        below `magnitude`.
    pool: the operations to draw from. None: all 14. As in Pillow, equalize does not change an image
        of at most 255 pixels, and color does not change a gray one.
    exclude: operations removed from the pool.
    cutout: side of the box as a fraction of the image's side (`usb`: the largest side); 0 switches
        it off.
    fill: gray level in [0, 1] of pixels from outside the frame after rotation, shear and
        translation. None: the variant's, mid-gray for `fixmatch`, black for the others.

    Every operation equals Pillow's on uint8 pixels, with nearest-neighbor resampling. Differences
    from the authors' code: consecutive geometric operations are one resampling; pixels from outside
    the frame are gray at once, in their code they are black for the following operations and gray
    at the end; a box of odd side keeps its side. Forms of RandAugment whose magnitude rises over
    training are not supported, because a view does not know the progress of training.

    Raises UserError for an unknown variant or operation and if `exclude` empties the pool.
    """

    def __init__(
        self,
        weak: Weak | None = None,
        variant: Name = "fixmatch",
        n: Annotated[int, Field(ge=0, le=14)] | None = None,
        probability: Annotated[float, Field(ge=0, le=1)] | None = None,
        magnitude: Annotated[float, Field(ge=0, le=30)] = 9,
        magnitude_mode: Literal["constant", "random"] = "constant",
        pool: Sequence[Operation] | None = None,
        exclude: Sequence[Operation] = (),
        cutout: Annotated[float, Field(ge=0, le=1)] = 0.5,
        fill: Annotated[float, Field(ge=0, le=1)] | None = None,
    ):
        if variant not in VARIANTS:
            raise UserError(
                f"strong view: variant '{variant}' is unknown; {nearest(variant, VARIANTS)}"
            )
        self.weak = weak or Weak()
        self.variant = VARIANTS[variant]
        self.cutout = cutout
        self.n = self.variant.n if n is None else n
        self.probability = self.variant.probability if probability is None else probability
        self.fill = round(255 * (self.variant.fill if fill is None else fill))
        self.magnitude = magnitude
        self.magnitude_mode = magnitude_mode
        self.pool = _pool(pool, exclude)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        pixels = self.weak.pixels(pixels, draw_for)
        if self.n and self.pool != ("identity",):
            codes, values = self.draw(draw_for, pixels.device)
            pixels = apply_operations(pixels, codes, values, self.pool, self.fill)
        return self._cut(pixels, draw_for) if self.cutout else to_unit(pixels)

    def draw(self, draw_for: DrawFor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Operations of each row: codes int64 [B, n], indices in OPERATIONS (identity if the
        operation is not applied), and values float64 [B, n] in the units of `randaugment`."""
        table, pool = self._tables(device)
        choice, coin, number, side = draw_for("strong/randaugment").uniform(self.n, 4).unbind(-1)
        if self.variant.levels == "magnitude":
            if self.magnitude_mode == "constant":
                number = torch.ones_like(number)
            else:
                number = number[:, :1].expand_as(number)  # one magnitude for all operations
            number = number * (self.magnitude / 30)
        codes = pool[(choice * len(self.pool)).long()]
        values = values_of(table, codes, level_of(number, self.variant.levels), side < 0.5)
        return torch.where(coin < self.probability, codes, 0), values

    def _cut(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        """The view in [0, 1] with its box; `pixels` is overwritten."""
        number = draw_for("strong/cutout").uniform(3)
        if self.variant.cutout_random:
            part = number[:, 2] * self.cutout
        else:
            part = torch.full_like(number[:, 2], self.cutout)
        box = box_mask(number[:, :2], part, *pixels.shape[2:])
        # Products with 0 and 1 are exact, and faster than a masked write; fastest on bytes.
        view = to_unit(pixels.mul_((~box).view(torch.uint8)))
        painted = box.float()
        levels = fill_for(view.shape[1], self.variant.cutout_fill)
        if len(set(levels)) == 1:
            return view.add_(painted, alpha=levels[0])
        for channel, level in enumerate(levels):
            view[:, channel].add_(painted[:, 0], alpha=level)
        return view

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Parameters and pool on the device, copied once: a copy in every step would sync."""
        if device not in self._on_device:
            pool = torch.tensor([OPERATIONS.index(name) for name in self.pool], device=device)
            self._on_device[device] = (self.variant.table().to(device), pool)
        return self._on_device[device]


def _pool(pool: Sequence[str] | None, exclude: Sequence[str]) -> tuple[str, ...]:
    names = OPERATIONS if pool is None else tuple(pool)
    for name in (*names, *exclude):
        if name not in OPERATIONS:
            raise UserError(
                f"strong view: operation '{name}' is unknown; {nearest(name, OPERATIONS)}"
            )
    kept = tuple(name for name in names if name not in exclude)
    if not kept:
        raise UserError(
            f"strong view: exclude={list(exclude)} leaves no operation of the pool, expected at "
            "least one"
        )
    return kept
