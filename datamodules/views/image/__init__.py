"""Image views: callables (pixels uint8 [B, C, H, W], draw_for) -> float32 [B, C, H, W] in [0, 1] on
the same device.

`draw_for(purpose)` returns the random numbers of the B local rows (`foundation.randomness.Draw`),
so a view is a pure function of its pixels and of the key of `draw_for`. Two views of one sample
differ only if their `draw_for` differ. A view that learns has a module `state`, which the run moves
to its device and saves, and a further view `probe`. One that makes another size has `size`, the
side of its squares.
"""

from datamodules.views.image.color_stages import ColorJitter, ThreeAugment
from datamodules.views.image.ctaugment import CTAugment
from datamodules.views.image.erase import Erasing
from datamodules.views.image.natural import Natural
from datamodules.views.image.operations import GEOMETRIC, OPERATIONS, PHOTOMETRIC
from datamodules.views.image.own import Own
from datamodules.views.image.policies import AutoAugment, RandAugment, TrivialAugment
from datamodules.views.image.raw import Raw, to_unit
from datamodules.views.image.resized_crop import Middle, ResizedCrop
from datamodules.views.image.strong import Strong
from datamodules.views.image.weak import Weak

__all__ = [
    "GEOMETRIC",
    "OPERATIONS",
    "PHOTOMETRIC",
    "AutoAugment",
    "CTAugment",
    "ColorJitter",
    "Erasing",
    "Middle",
    "Natural",
    "Own",
    "RandAugment",
    "Raw",
    "ResizedCrop",
    "Strong",
    "ThreeAugment",
    "TrivialAugment",
    "Weak",
    "to_unit",
]
