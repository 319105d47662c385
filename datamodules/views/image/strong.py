"""The strong view: weak flip and shift, then RandAugment, then Cutout."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from datamodules.views.image.cutout import box_mask, fill_for
from datamodules.views.image.operations import OPERATIONS, Operation, apply_operations
from datamodules.views.image.randaugment import VARIANTS, Name, level_of, values_of
from datamodules.views.image.raw import DrawFor, to_unit
from datamodules.views.image.stage import PixelView, in_blocks
from datamodules.views.image.weak import Weak
from foundation.errors import UserError, nearest
from foundation.types import Share


class Strong:
    """Weak view, then `n` operations drawn from the pool with replacement, each applied with
    `probability`, then Cutout.

    Every operation equals Pillow's on uint8 pixels, nearest neighbor where it resamples. We differ
    from the authors' code in three points: consecutive geometric operations are one resampling;
    what comes in from outside is grey at once, where theirs is black for the operations that follow
    and grey at the end; a box of odd side keeps its side. The forms of RandAugment whose magnitude
    rises over training are not here: a view knows no progress. As in Pillow, equalize does nothing
    to a picture of at most 255 pixels, and color nothing to a grey one. Raises UserError for an
    unknown variant or operation and for a pool that `exclude` empties.

    weak: what comes before the operations, `Weak` or `ResizedCrop`; null: flip and shift. The draw
        is this view's own.
    variant: form of RandAugment: `fixmatch` (authors' code), `paper`, `usb` or `nm`. See
        `randaugment` for the tables.
    n: operations of a picture, 0 to 14; null: the variant's.
    probability: probability of applying each, 0 to 1; null: the variant's.
    magnitude: magnitude of variant nm, 0 (nothing) to 30.
    magnitude_mode: magnitude of variant nm: `constant`, or `random`, uniform below it.
    pool: operations to draw from; null: all 14.
    exclude: operations to leave out of the pool.
    cutout: side of the box as a share of the picture's, 0 to 1; 0: none. Variant `usb`: the largest
        side.
    fill: grey that comes in from outside, 0 to 1; null: the variant's. It comes in where a picture
        is turned, sheared or moved: mid-grey for `fixmatch`, black for the others.
    """

    def __init__(
        self,
        weak: PixelView | None = None,
        variant: Name = "fixmatch",
        n: Annotated[int, Field(ge=0, le=14)] | None = None,
        probability: Share | None = None,
        magnitude: Annotated[float, Field(ge=0, le=30)] = 9,
        magnitude_mode: Literal["constant", "random"] = "constant",
        pool: Sequence[Operation] | None = None,
        exclude: Sequence[Operation] = (),
        cutout: Share = 0.5,
        fill: Share | None = None,
    ):
        if variant not in VARIANTS:
            raise UserError(
                f"strong view: variant '{variant}' is unknown; {nearest(variant, VARIANTS)}"
            )
        self.weak: PixelView = weak or Weak()
        self.variant = VARIANTS[variant]
        self.cutout = cutout
        self.n = self.variant.n if n is None else n
        self.probability = self.variant.probability if probability is None else probability
        self.fill = round(255 * (self.variant.fill if fill is None else fill))
        self.magnitude = magnitude
        self.magnitude_mode = magnitude_mode
        self.pool = _pool(pool, exclude)
        self.size = getattr(self.weak, "size", None)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        pixels = self.weak.pixels(pixels, draw_for)
        if self.n and self.pool != ("identity",):
            codes, values = self.draw(draw_for, pixels.device)
            operations = partial(apply_operations, pool=self.pool, fill=self.fill)
            pixels = in_blocks(operations, pixels, codes, values)
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
