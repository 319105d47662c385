"""The random numbers of RandAugment (arXiv 1909.13719) in the forms that semi-supervised learning
uses.

A level l in [0, 10] is mapped linearly to the parameter of an operation: start + span * l / 10,
rounded up for posterize and solarize (a threshold between two gray levels acts as the next one). A
mirrored operation has, with probability 1/2, the value on the other side of its pivot. Units:
rotate degrees, shear pixels per pixel, translate fraction of the side, solarize gray level,
posterize bits kept, the four enhancers a factor (1 is the identity).

    variant   l                          n  p    source
    fixmatch  1, 2, ..., 9               2  1/2  authors' code of FixMatch (arXiv 2001.07685);
                                                 translates by l of 32 pixels
    paper     uniform in [0, 10)         2  1/2  table of FixMatch's appendix; enhancers darken,
                                                 never brighten
    usb       uniform in [0, 10)         3  1    TorchSSL and USB; posterize 4..7
    nm        magnitude / 3, or uniform  2  1    RandAugment: one magnitude 0..30 per sample,
              below that                         enhancers in both directions, AutoAugment's ranges
                                                 (translates by up to 150 of 331 pixels)
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datamodules.views.image.operations import ENHANCE, GEOMETRIC, OPERATIONS

Name = Literal["fixmatch", "paper", "usb", "nm"]
Levels = Literal["integer", "uniform", "magnitude"]
ROUNDED_UP = ("posterize", "solarize")
GREY = (0.5, 0.5, 0.5)
Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Variant:
    """Published settings.

    ranges: operation -> (start, span); the enhancers share one entry, both shears one, both
        translations one.
    mirror_enhance: whether enhancers are mirrored at 1.
    fill: gray level in [0, 1] outside the frame.
    cutout_random: the side of the box is uniform below the largest instead of fixed.
    """

    n: int
    probability: float
    levels: Levels
    ranges: Ranges
    mirror_enhance: bool = False
    fill: float = 0.0
    cutout_random: bool = False
    cutout_fill: tuple[float, float, float] = GREY

    def table(self) -> Tensor:
        """float64 [14, 5]: start, span, pivot, whether mirrored, whether rounded up."""
        rows = []
        for name in OPERATIONS:
            kind = "enhance" if name in ENHANCE else name.split("_")[0]
            pivot = 1.0 if kind == "enhance" else 0.0
            mirrored = name in GEOMETRIC or (kind == "enhance" and self.mirror_enhance)
            rows.append([*self.ranges.get(kind, (0.0, 0.0)), pivot, mirrored, name in ROUNDED_UP])
        return torch.tensor(rows, dtype=torch.float64)


def _ranges(
    translate: float, enhance: tuple[float, float], solarize: int, posterize: tuple[int, int]
) -> Ranges:
    fixed: Ranges = {"rotate": (0.0, 30.0), "shear": (0.0, 0.3), "solarize": (solarize, -solarize)}
    return fixed | {"translate": (0.0, translate), "enhance": enhance, "posterize": posterize}


_USB_FILL = (125 / 255, 123 / 255, 114 / 255)
VARIANTS: dict[str, Variant] = {
    "fixmatch": Variant(2, 0.5, "integer", _ranges(10 / 32, (0.1, 1.8), 256, (4, -4)), fill=0.5),
    "paper": Variant(2, 0.5, "uniform", _ranges(0.3, (0.05, 0.9), 255, (8, -5))),
    "usb": Variant(
        3,
        1.0,
        "uniform",
        _ranges(0.3, (0.05, 0.9), 256, (7, -4)),
        cutout_random=True,
        cutout_fill=_USB_FILL,
    ),
    "nm": Variant(
        2, 1.0, "magnitude", _ranges(150 / 331, (1.0, -0.9), 256, (8, -4)), mirror_enhance=True
    ),
}


def level_of(number: Tensor, levels: Levels) -> Tensor:
    """Levels in [0, 10], float64, from uniform numbers in [0, 1), which the caller has scaled for
    `magnitude`."""
    number = number.double()
    return (number * 9).floor().add_(1) if levels == "integer" else number * 10


def values_of(table: Tensor, codes: Tensor, level: Tensor, mirror: Tensor) -> Tensor:
    """Parameters, float64, of operations `codes` at `level`, mirrored at the pivot where `mirror`;
    all of one shape."""
    start, span, pivot, mirrored, rounded = table[codes].unbind(-1)
    value = start + span * level / 10
    value = torch.where(mirror & (mirrored > 0), 2 * pivot - value, value)
    return torch.where(rounded > 0, value.ceil(), value)
