"""Color jitter and 3-Augment: stages on pictures in [0, 1]."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from datamodules.views.image.color import (
    blended,
    blurred,
    grey,
    on_float_rows,
    shifted_hue,
    solarized,
)
from datamodules.views.image.raw import DrawFor
from datamodules.views.image.stage import Drawn, Shape
from foundation.errors import UserError
from foundation.types import Share, Weight

Turn = Annotated[float, Field(ge=0, le=0.5)]
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# 3-Augment, as in the authors' code
SOLARIZE = 128 / 255
SIGMA = (0.1, 2.0)
REACH = 8  # four of the largest standard deviation


class ColorJitter:
    """Brightness, contrast, saturation and hue, in an order drawn for each picture, as in
    torchvision's `ColorJitter`: factors uniform in [1 - x, 1 + x], not below 0, the hue in [-x, x]
    of the circle. Saturation and hue do nothing to grey pictures.

    brightness: largest change of brightness, at least 0; 0.4.
    contrast: largest change of contrast, at least 0; 0.4.
    saturation: largest change of saturation, at least 0; 0.4.
    hue: largest turn of the hue, 0 to 0.5; 0. For pictures of three channels or one.
    probability: of a picture to be changed at all, 0 to 1; 1. 0.8 (SimCLR).
    """

    size = None

    def __init__(
        self,
        brightness: Weight = 0.4,
        contrast: Weight = 0.4,
        saturation: Weight = 0.4,
        hue: Turn = 0.0,
        probability: Share = 1.0,
    ):
        self.reach = (brightness, contrast, saturation)
        self.hue = hue
        self.probability = probability

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        if self.hue and shape[0] not in (1, 3):
            problem = f"{shape[0]} channels have no hue"
            raise UserError(f"hue={self.hue} of a color jitter", problem, "expected 0")
        numbers = draw_for("color_jitter").uniform(9)
        order = numbers[:, :4].argsort(1)
        amounts = []
        for place, reach in enumerate(self.reach):
            low = max(0.0, 1 - reach)
            amounts.append(low + (1 + reach - low) * numbers[:, 4 + place])
        amounts.append(self.hue * (2 * numbers[:, 7] - 1))
        # a picture that is left alone has factors 1 and no turn
        neutral = numbers.new_ones(len(numbers), 4)
        neutral[:, HUE] = 0
        changed = numbers[:, 8, None] < self.probability
        return order, torch.where(changed, torch.stack(amounts, 1), neutral)

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        order, amounts = drawn
        return jittered(pictures, order, amounts, bool(self.hue) and pictures.shape[1] == 3)


def jittered(pictures: Tensor, order: Tensor, amounts: Tensor, turns: bool) -> Tensor:
    """Each row after its four changes. order: int64 [B, 4], codes. amounts: [B, 4], of the codes.

    The three blends are one formula with a base of black, mean grey or grey, so that rows in
    different orders are one batch.
    """
    amounts = amounts.to(pictures.dtype)
    for code in order.unbind(1):
        amount = amounts.gather(1, code[:, None]).squeeze(1)
        factor = torch.where(code == HUE, 1.0, amount)
        luma = grey(pictures)
        mean = luma.mean((1, 2, 3)) * (code == CONTRAST)
        base = luma.mul_((code == SATURATION)[:, None, None, None])
        base = base.add_(mean[:, None, None, None])
        pictures = blended(pictures, base, factor)
        if turns:
            pictures = on_float_rows(pictures, code == HUE, shifted_hue, amount)
    return pictures


class ThreeAugment:
    """3-Augment (DeiT III, arXiv 2204.07118): one of grey, solarization (at 128) and Gaussian blur
    (standard deviation uniform in 0.1 to 2 pixels), each with probability 1/3, then color jitter.

    The authors' code blurs by Pillow's sum of boxes, an approximation of the Gaussian here.

    jitter: largest change of brightness, contrast and saturation, at least 0; 0.3 (paper).
    """

    size = None

    def __init__(self, jitter: Weight = 0.3):
        self.jitter = ColorJitter(jitter, jitter, jitter)

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        if min(shape[1:]) <= REACH:
            problem = f"pictures of {shape[1]}×{shape[2]}"
            raise UserError("3-Augment blurs", problem, f"expected sides above {REACH} pixels")
        numbers = draw_for("three_augment").uniform(2)
        sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * numbers[:, 1]
        which = (numbers[:, 0] * 3).long()
        return which, sigma, *self.jitter.draw(draw_for, shape, device)

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        which, sigma, *jitter = drawn
        pictures = on_float_rows(pictures, which == 0, lambda x: grey(x).expand_as(x))
        pictures = on_float_rows(pictures, which == 1, lambda x: solarized(x, SOLARIZE))
        pictures = on_float_rows(
            pictures, which == 2, lambda x, width: blurred(x, width, REACH), sigma
        )
        return self.jitter.apply(pictures, *jitter)
