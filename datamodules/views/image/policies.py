"""AutoAugment, TrivialAugment and RandAugment: stages on uint8 pictures.

Values are torchvision's, in the units of `randaugment`: a translation is a share of the side.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from datamodules.views.image.operations import (
    ENHANCE,
    GEOMETRIC,
    OPERATIONS,
    apply_operations,
)
from datamodules.views.image.raw import DrawFor
from datamodules.views.image.stage import Drawn, Shape
from datamodules.views.image.strong import Strong
from foundation.types import Share

BINS = 31  # of TrivialAugment's magnitudes
MAGNITUDES = 10  # of AutoAugment's
INVERT = "invert"  # solarize at 0
Entry = tuple[str, float, int]  # operation, probability, magnitude
# "AutoAugment: Learning augmentation policies from data", arXiv 1805.09501, table 9
IMAGENET: tuple[tuple[Entry, Entry], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    ((INVERT, 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), (INVERT, 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    ((INVERT, 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
# largest value of an operation: AutoAugment's, TrivialAugment-wide's
AUTO = {"shear": 0.3, "rotate": 30.0, "enhance": 0.9, "posterize": 4.0}
WIDE = {"shear": 0.99, "rotate": 135.0, "enhance": 0.99, "posterize": 6.0}
WIDE_PIXELS = 32.0  # TrivialAugment translates by so many at most, whatever the size


def family(name: str) -> str:
    return "enhance" if name in ENHANCE else name.split("_")[0]


def signed(name: str) -> bool:
    return name in GEOMETRIC or name in ENHANCE


def value_table(largest: Mapping[str, float], bins: int) -> Tensor:
    """float64 [14, bins, 2]: the value of an operation at each magnitude, with positive and with
    negative sign. Translations are left 0: see `translated`."""
    steps = torch.linspace(0, 1, bins, dtype=torch.float64)
    table = torch.zeros(len(OPERATIONS), bins, 2, dtype=torch.float64)
    for code, name in enumerate(OPERATIONS):
        kind = family(name)
        if kind == "solarize":
            # a threshold between two levels acts as the upper one; 170 is not to become 171
            values = (255 * (1 - steps) - 1e-6).ceil()
        elif kind == "posterize":
            values = 8 - (steps * largest[kind]).round()
        else:
            values = steps * largest.get(kind, 0.0)
        pivot = 1.0 if kind == "enhance" else 0.0
        negative = pivot - values if signed(name) else values
        table[code] = torch.stack([pivot + values, negative], 1)
    return table


class _Policy:
    """What both have: operations of `codes` with `values`, drawn for the batch.

    fill: grey that comes in from outside, 0 to 1.
    """

    size = None
    names: tuple[str, ...] = OPERATIONS

    def __init__(self, fill: float):
        self.fill = round(255 * fill)
        self._on_device: dict[torch.device, tuple[Tensor, ...]] = {}

    def tables(self) -> tuple[Tensor, ...]:
        raise TypeError(f"{type(self).__name__} does not implement tables")

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The tables on the device, copied once: a copy in every step would sync."""
        if device not in self._on_device:
            self._on_device[device] = tuple(table.to(device) for table in self.tables())
        return self._on_device[device]

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        codes, values = drawn
        return apply_operations(pictures, codes, values, self.names, self.fill)


class TrivialAugment(_Policy):
    """TrivialAugment-wide (Müller and Hutter, arXiv 2103.10158): one operation of 14, with one
    magnitude of 31 and a sign.

    fill: grey that comes in from outside, 0 to 1; 0 (torchvision).
    """

    def __init__(self, fill: Share = 0.0):
        super().__init__(fill)

    def tables(self) -> tuple[Tensor, ...]:
        return (value_table(WIDE, BINS),)

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        (table,) = self.on(device)
        which, level, side = draw_for("trivial_augment").uniform(3).unbind(1)
        codes = (which * len(OPERATIONS)).long()
        bins = (level * BINS).long()
        sign = (side < 0.5).long()
        values = table[codes, bins, sign]
        # whole pixels, as in torchvision
        pixels = (bins.double() * (WIDE_PIXELS / (BINS - 1))).floor() * (1 - 2 * sign)
        for name, length in (("translate_x", shape[2]), ("translate_y", shape[1])):
            values = torch.where(codes == OPERATIONS.index(name), pixels / length, values)
        return codes[:, None], values[:, None]


class AutoAugment(_Policy):
    """AutoAugment's policy for ImageNet (Cubuk et al., arXiv 1805.09501): one of 25 pairs of
    operations, each of which has its probability and magnitude. As in torchvision, magnitudes of
    geometry and enhancers have either sign.

    fill: grey that comes in from outside, 0 to 1; 0 (torchvision); 0.5 (paper).
    """

    names = tuple(
        name for name in OPERATIONS if any(name == entry[0] for pair in IMAGENET for entry in pair)
    )

    def __init__(self, fill: Share = 0.0):
        super().__init__(fill)

    def tables(self) -> tuple[Tensor, ...]:
        """Codes [25, 2], probabilities [25, 2], values [25, 2, 2 signs]."""
        known = value_table(AUTO, MAGNITUDES)
        codes = torch.zeros(len(IMAGENET), 2, dtype=torch.int64)
        chances = torch.zeros(len(IMAGENET), 2)
        values = torch.zeros(len(IMAGENET), 2, 2, dtype=torch.float64)
        for row, pair in enumerate(IMAGENET):
            for place, (name, chance, magnitude) in enumerate(pair):
                inverted = name == INVERT  # its value stays 0
                codes[row, place] = OPERATIONS.index("solarize" if inverted else name)
                chances[row, place] = chance
                if not inverted:
                    values[row, place] = known[codes[row, place], magnitude]
        return codes, chances, values

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        codes, chances, values = self.on(device)
        numbers = draw_for("auto_augment").uniform(5)
        pair = (numbers[:, 0] * len(IMAGENET)).long()
        used = numbers[:, 1:3] < chances[pair]
        sign = (numbers[:, 3:5] < 0.5).long()
        chosen = values[pair].gather(2, sign[:, :, None]).squeeze(2)
        return torch.where(used, codes[pair], 0), chosen


class RandAugment:
    """RandAugment (Cubuk et al., arXiv 1909.13719): operations drawn with replacement from 14, each
    at the same magnitude. See `Strong`, which is this behind a flip and shift, with a cutout.

    n: operations of a picture, 0 to 14; 2 (torchvision).
    magnitude: of all operations, 0 (nothing) to 30; 9 (torchvision, DeiT).
    fill: grey that comes in from outside, 0 to 1; 0 (torchvision).
    """

    size = None

    def __init__(
        self,
        n: Annotated[int, Field(ge=0, le=14)] = 2,
        magnitude: Annotated[float, Field(ge=0, le=30)] = 9,
        fill: Share = 0.0,
    ):
        self.strong = Strong(variant="nm", n=n, magnitude=magnitude, fill=fill)

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        return self.strong.draw(draw_for, device)

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        codes, values = drawn
        return apply_operations(pictures, codes, values, self.strong.pool, self.strong.fill)
