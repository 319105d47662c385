"""CTAugment: a strong view whose strengths the model's agreement sets. Berthelot et al.,
ReMixMatch, ICLR 2020, arXiv 1911.09785; bins and ranges as in the code of FixMatch (arXiv
2001.07685)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, get_args

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from datamodules.views.image import photometric
from datamodules.views.image.ctaugment_rates import BINS, Choice, Rates
from datamodules.views.image.cutout import box_mask
from datamodules.views.image.geometry import identity_maps, maps_of, resample
from datamodules.views.image.operations import acts, on_rows
from datamodules.views.image.raw import DrawFor, to_unit
from datamodules.views.image.stage import PixelView
from datamodules.views.image.weak import Weak
from foundation import devices
from foundation.errors import UserError, nearest
from foundation.types import Share

Operation = Literal[
    "identity",
    "autocontrast",
    "blur",
    "brightness",
    "color",
    "contrast",
    "cutout",
    "equalize",
    "invert",
    "posterize",
    "sharpness",
    "smooth",
    "solarize",
    "rescale",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
OPERATIONS: tuple[str, ...] = get_args(Operation)  # the code of an operation is its index
GEOMETRIC = OPERATIONS[13:]
# share of a picture's side that translations move, shears lean and `rescale` crops at most
TRANSLATE = 0.3
SHEAR = 0.3
CROP = 0.25
TURN = 45.0
PURPOSE = "ctaugment"  # of the random numbers of a view's operations


def mixed(changed: Tensor, pixels: Tensor, level: Tensor) -> Tensor:
    """(1 - level) · pixels + level · changed, truncated as Pillow's `blend`."""
    part = level.float().view(-1, 1, 1, 1)
    blended = pixels.float() + part * (changed.float() - pixels.float())
    return blended.clamp_(0, 255).to(torch.uint8)


def blurred(pixels: Tensor) -> Tensor:
    """Pillow's BLUR: the mean of the 16 pixels on the border of a 5×5 window; the outer two lines
    of a picture do not change."""
    if min(pixels.shape[2:]) < 5:
        return pixels
    window = pixels.new_ones(5, 5, dtype=torch.float32)
    window[1:4, 1:4] = 0.0
    channels = pixels.shape[1]
    with torch.autocast(pixels.device.type, enabled=False):
        weight = window.expand(channels, 1, 5, 5)
        inner = F.conv2d(pixels.float(), weight, groups=channels) / 16.0
    changed = pixels.clone()
    changed[:, :, 2:-2, 2:-2] = (inner + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return changed


def boxed(pixels: Tensor, level: Tensor, center: Tensor) -> Tensor:
    """A mid-gray box of level/2 of the sides."""
    box = box_mask(center, level.float() / 2, *pixels.shape[2:])
    return torch.where(box, torch.full_like(pixels, 127), pixels)


def enhancement(level: Tensor) -> Tensor:
    """0.1 + 1.9 L: 1 leaves the picture."""
    return 0.1 + 1.9 * level


PHOTOMETRIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": lambda x, level: mixed(photometric.autocontrast(x), x, level),
    "blur": lambda x, level: mixed(blurred(x), x, level),
    "brightness": lambda x, level: photometric.brightness(x, enhancement(level)),
    "color": lambda x, level: photometric.color(x, enhancement(level)),
    "contrast": lambda x, level: photometric.contrast(x, enhancement(level)),
    "equalize": lambda x, level: mixed(photometric.equalize(x), x, level),
    "invert": lambda x, level: mixed(255 - x, x, level),
    "posterize": lambda x, level: photometric.posterize(x, 1 + (7.999 * level).floor()),
    "sharpness": lambda x, level: photometric.sharpness(x, enhancement(level)),
    # sharpness at 0 is Pillow's SMOOTH
    "smooth": lambda x, level: photometric.sharpness(x, 1 - level),
    "solarize": lambda x, level: photometric.solarize(x, (255.999 * level).floor()),
}


def maps(codes: Tensor, level: Tensor, sides: tuple[int, int]) -> Tensor:
    """[B, 3, 3]: the inverse map of one geometric operation per row, the identity for others."""
    sign = 2 * level.double() - 1
    amounts = {
        "rotate": TURN * sign,
        "shear_x": SHEAR * sign,
        "shear_y": SHEAR * sign,
        "translate_x": TRANSLATE * sign,
        "translate_y": TRANSLATE * sign,
    }
    columns = [torch.where(codes == OPERATIONS.index(n), a, 0.0) for n, a in amounts.items()]
    found = maps_of(torch.stack(columns, 1), sides)
    # `rescale` reads the picture without a border of CROP · level on every side
    border = torch.where(codes == OPERATIONS.index("rescale"), CROP * level.double(), 0.0)
    zoom = identity_maps(len(codes), codes.device).clone()
    for axis, side in enumerate((sides[1], sides[0])):
        zoom[:, axis, axis] = 1 - 2 * border
        zoom[:, axis, 2] = border * side
    return found @ zoom


class CTAugment:
    """Weak view, then `depth` operations drawn from the pool with replacement, each at a strength
    that the model can still read, then Cutout.

    The strength of an operation is in one of 17 bins (posterize: 8). A bin has a rate m, initially
    1; a view takes bin i with probability proportional to w_i = (m_i + 1 - decay) / max, and never
    one with w_i below the threshold. `probe` makes views of uniform bins, from which a method
    learns: m ← decay · m + (1 - decay) · (1 - ½ ‖p - y‖₁) for the prediction p of such a view and
    its label y. The rates are a module (`state`), which the run saves.

    Pictures are resampled by nearest neighbor, where the authors' `rescale` also draws one of six
    filters, and translations are shares of the side, where theirs are of a pixel.

    weak: what comes before the operations, `Weak` or `ResizedCrop`; null: flip and shift. The draw
        is this view's own.
    depth: operations of a picture, at least 1; 2 (paper).
    threshold: weight below which a bin is left out, 0 to 1; 0.8 (authors' code).
    decay: of the rates, in [0, 1); 0.99 (paper).
    exclude: operations to leave out of the pool; null: none.
    cutout: side of the last box as a share of the picture's, 0 to 1; 0.5 (FixMatch); 0: none.
    fill: gray that comes in from outside, 0 to 1; 0.5.
    """

    def __init__(
        self,
        weak: PixelView | None = None,
        depth: Annotated[int, Field(ge=1)] = 2,
        threshold: Share = 0.8,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        exclude: Sequence[Operation] | None = None,
        cutout: Share = 0.5,
        fill: Share = 0.5,
    ):
        left_out = exclude or ()
        for name in left_out:
            if name not in OPERATIONS:
                raise UserError(
                    f"ctaugment view: operation '{name}' is unknown; {nearest(name, OPERATIONS)}"
                )
        self.pool = tuple(name for name in OPERATIONS if name not in left_out)
        if not self.pool:
            raise UserError("ctaugment view: exclude leaves no operation, expected at least one")
        self.weak: PixelView = weak or Weak()
        self.size = getattr(self.weak, "size", None)
        self.depth = depth
        self.cutout = cutout
        self.fill = fill
        bins = tuple(8 if name == "posterize" else BINS for name in OPERATIONS)
        codes = tuple(OPERATIONS.index(name) for name in self.pool)
        self.state = Rates(bins, codes, depth, threshold, decay)

    def __call__(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        return self._made(pixels, draw_for, self.state.choice(draw_for(PURPOSE)))

    def probe(self, pixels: Tensor, draw_for: DrawFor) -> Tensor:
        """A view of uniform strengths, without the last Cutout."""
        choice = self.state.choice(draw_for(PURPOSE), learned=False)
        return to_unit(self._changed(pixels, draw_for, choice))

    def _made(self, pixels: Tensor, draw_for: DrawFor, choice: Choice) -> Tensor:
        view = to_unit(self._changed(pixels, draw_for, choice))
        if not self.cutout:
            return view
        center = draw_for("ctaugment/cutout").uniform(2)
        part = torch.full_like(center[:, 0], self.cutout)
        return view.masked_fill(box_mask(center, part, *view.shape[2:]), self.fill)

    def _changed(self, pixels: Tensor, draw_for: DrawFor, choice: Choice) -> Tensor:
        """uint8: the weak view after all operations."""
        pixels = self.weak.pixels(pixels, draw_for)
        sides = (pixels.shape[2], pixels.shape[3])
        centers = draw_for("ctaugment/boxes").uniform(self.depth, 2)
        fill = round(255 * self.fill)
        for slot in range(self.depth):
            codes, level = choice.codes[:, slot], choice.level[:, slot]
            for name in self.pool:
                rows = rows_of(codes == OPERATIONS.index(name))
                if name == "cutout":
                    pixels = on_rows(pixels, rows, boxed, level, centers[:, slot])
                elif name in PHOTOMETRIC and (
                    name not in ("color", "equalize") or acts(name, pixels)
                ):
                    pixels = on_rows(pixels, rows, PHOTOMETRIC[name], level)
            if any(name in self.pool for name in GEOMETRIC):
                moved = codes >= OPERATIONS.index(GEOMETRIC[0])
                turned = maps(codes, level, sides)
                pixels = on_rows(pixels, rows_of(moved), resampled(fill), turned)
        return pixels


def resampled(fill: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda pixels, turned: resample(pixels, turned, fill, chain=1)


def rows_of(mask: Tensor) -> Tensor:
    """Row numbers on the CPU; the mask itself elsewhere, where their number would need a sync."""
    return mask.nonzero().squeeze(1) if devices.readable(mask) else mask
