"""Randomisation of the input. Xie et al., Mitigating Adversarial Effects Through Randomization,
ICLR 2018, arXiv 1711.01991."""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from foundation.randomness import SampleRandomness
from recipes.contract import Context, Declaration, Method
from recipes.step import Embedded


def resize_and_pad(
    x: Tensor,
    side: Tensor,
    corner: Tensor,
    canvas: tuple[int, int],
    mode: str = "bilinear",
    value: float = 0.0,
) -> Tensor:
    """Each image [C, H, W] resized to its own size and placed on a canvas of one color, in one
    resampling for the whole batch.

    side, corner: int64 [N, 2], (height, width) and (top, left).
    """
    grids = []
    inside = []
    for axis, extent in enumerate(canvas):
        position = torch.arange(extent, device=x.device) - corner[:, axis : axis + 1]
        inside.append((position >= 0) & (position < side[:, axis : axis + 1]))
        # centers of pixels, in the units of `grid_sample`: -1 and 1 are the borders of the image
        grids.append((2 * position + 1) / side[:, axis : axis + 1] - 1)
    vertical = grids[0].unsqueeze(2).expand(-1, -1, canvas[1])
    horizontal = grids[1].unsqueeze(1).expand(-1, canvas[0], -1)
    grid = torch.stack([horizontal, vertical], dim=3).to(x.dtype)
    resized = F.grid_sample(x, grid, mode, "border", align_corners=False)
    in_image = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
    return torch.where(in_image.unsqueeze(1), resized, value)


class Randomization(Method):
    """f(pad(resize(x))) at evaluation: sides drawn from [H, H'), H' = ⌈enlarge · H⌉, at a random
    position on a canvas of side H'.

    Training does not change, and the network must accept images of side H'. Draws are keyed by
    sample, so predictions do not depend on the batch or the number of ranks. With several passes
    their probabilities are averaged. An attack must average gradients over draws
    (evaluate.attack.draws), and then breaks the defense: Athalye et al. 2018.

    enlarge: side of the canvas over that of the image, at least 1; 331/299 (paper).
    passes: draws whose probabilities are averaged, at least 1; 1 (paper; contest entry: 30).
    mode: interpolation of the resize: `bilinear` or `nearest` (authors' code).
    pad_value: gray value of the padding, 0 to 1; 0 (paper; authors' code: 0.5).
    """

    neutral = {"enlarge": 1}
    declaration = Declaration(modalities=("image",), tags=("random_inference",))

    def __init__(
        self,
        enlarge: Annotated[float, Field(ge=1)] = 1.107,
        passes: Annotated[int, Field(ge=1)] = 1,
        mode: Literal["bilinear", "nearest"] = "bilinear",
        pad_value: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ):
        self.enlarge = enlarge
        self.passes = passes
        self.mode = mode
        self.pad_value = pad_value

    def resized(self, x: Tensor, randomness: SampleRandomness, number: int) -> Tensor:
        """The images of pass `number`."""
        height, width = x.shape[2:]
        canvas = math.ceil(self.enlarge * height), math.ceil(self.enlarge * width)
        draw = randomness.draw(f"{self.key}/{number}")
        tall = draw.integers(height, max(canvas[0], height + 1))
        side = torch.stack([tall, tall * width // height], dim=1)
        room = torch.tensor(canvas, device=x.device) - side
        corner = (draw.uniform(2) * (room + 1)).long()
        return resize_and_pad(x, side, corner, canvas, self.mode, self.pad_value)

    def transform_input(
        self, embedded: Embedded, randomness: SampleRandomness, context: Context
    ) -> Embedded:
        passes = [self.resized(embedded.x, randomness, i) for i in range(self.passes)]
        return Embedded(torch.cat(passes))

    def infer(self, logits: Tensor, task: str, context: Context) -> Tensor:
        """log (1/P) Σ softmax over the passes, which are concatenated along the batch."""
        if self.passes == 1:
            return logits
        log_p = logits.view(self.passes, -1, logits.shape[1]).log_softmax(2)
        return log_p.logsumexp(0) - math.log(self.passes)
