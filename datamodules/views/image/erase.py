"""Random erasing (Zhong et al., arXiv 1708.04896): a stage on pictures in [0, 1]."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from datamodules.views.image.boxes import NUMBERS, erase_boxes, inside
from datamodules.views.image.cutout import fill_for
from datamodules.views.image.raw import DrawFor
from datamodules.views.image.stage import Drawn, Shape, interval
from foundation.errors import UserError
from foundation.types import Share

# of ImageNet: black and unit noise of a normalized picture
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Erasing:
    """One box of a picture is filled, as by torchvision's `RandomErasing`.

    Elsewhere the box is filled after the normalization, with 0 or with normal noise. Pictures here
    are in [0, 1] and networks normalize: `mean` and `noise` are the colours of those values.

    probability: of a picture to lose a box, 0 to 1; 0.25 (timm).
    scale: least and largest area of the box as shares of the picture's, above 0 to 1.
    ratio: least and largest height over width of the box, above 0.
    value: `mean` (ImageNet's), `noise` (normal around it, for each pixel) or a grey, 0 to 1.
    """

    size = None

    def __init__(
        self,
        probability: Share = 0.25,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: Share | Literal["mean", "noise"] = "mean",
    ):
        if isinstance(value, str) and value not in ("mean", "noise"):
            raise UserError("value of erasing", f"got '{value}'", "expected mean, noise or a level")
        self.probability = probability
        self.scale = interval("scale of erasing", scale, 0, 1, above=True)
        self.ratio = interval("ratio of erasing", ratio, 0, float("inf"), above=True)
        self.value = value

    def draw(self, draw_for: DrawFor, shape: Shape, device: torch.device) -> Drawn:
        numbers = draw_for("erasing").uniform(NUMBERS + 1)
        boxes = erase_boxes(numbers[:, :NUMBERS], shape[1:], self.scale, self.ratio)
        kept = numbers[:, NUMBERS, None] >= self.probability
        boxes = boxes.masked_fill(kept, 0)
        if self.value != "noise":
            return (boxes,)
        return boxes, draw_for("erasing/noise").normal(*shape)

    def apply(self, pictures: Tensor, *drawn: Tensor) -> Tensor:
        box = inside(drawn[0], (pictures.shape[2], pictures.shape[3]))
        levels = self.levels(pictures.shape[1], MEAN)
        spreads = self.levels(pictures.shape[1], STD)
        for channel, (level, spread) in enumerate(zip(levels, spreads, strict=True)):
            plane = pictures[:, channel]
            mask = box[:, 0]
            if len(drawn) == 1:
                plane.masked_fill_(mask, level)
            else:
                noise = (drawn[1][:, channel] * spread + level).clamp_(0, 1)
                plane.copy_(torch.where(mask, noise.to(plane.dtype), plane))
        return pictures

    def levels(self, channels: int, color: tuple[float, float, float]) -> tuple[float, ...]:
        if isinstance(self.value, str):
            return fill_for(channels, color)
        return (float(self.value),) * channels
