"""Diverse inputs. Xie et al., Improving Transferability of Adversarial Examples with Input
Diversity, CVPR 2019, arXiv 1803.06978."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.errors import UserError
from foundation.randomness import RowNumbers
from foundation.types import Count, Share
from methods.adversarial.attacks.attack import Draws, Victim, least_side
from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.mi_fgsm import Momentum, MomentumAttack, momentum_steps
from methods.adversarial.attacks.threat import Norm, Radius, Threat, per_sample
from recipes.contract.environment import Environment

Interpolation = Literal["bilinear", "nearest"]
Resize = Annotated[float, Field(gt=0, le=2)]


def resampling(side: Tensor, corner: Tensor, size: int, canvas: int, mode: str) -> Tensor:
    """[N, canvas, size]: the matrix that resizes a line of `size` pixels to side_i and places it
    at corner_i of a black canvas, as `F.interpolate` (without align_corners) and `F.pad` do.

    side, corner: int64 [N].
    """
    position = torch.arange(canvas, device=side.device) - corner[:, None]
    inside = (position >= 0) & (position < side[:, None])
    scale = size / side[:, None].float()
    source = torch.arange(size, device=side.device)
    if mode == "nearest":
        chosen = (position * scale).floor().clamp(0, size - 1)
        weights = (chosen[:, :, None] == source).float()
    else:
        center = ((position + 0.5) * scale - 0.5).clamp(0, size - 1)
        # a pixel's weight falls linearly to 0 at the next one
        weights = (1 - (center[:, :, None] - source).abs()).clamp_min(0)
    return weights * inside[:, :, None]


@dataclass(frozen=True)
class Diversity:
    """T(x): with a probability the picture, resized to a random side and padded with black at a
    random place. The draws of a sample do not depend on the batch.

    resize: below 1 sides are drawn from [resize · H, H) and the canvas keeps the picture's size;
        above 1 they are drawn from [H, resize · H) on a canvas of resize · H (paper).
    """

    probability: float
    resize: float
    interpolation: Interpolation = "bilinear"

    def sides(self, size: int) -> tuple[int, int]:
        """The smallest side, and the canvas; sides are below it."""
        if self.resize < 1:
            return int(self.resize * size), size
        return size, math.ceil(self.resize * size)

    def resized(self, x: Tensor, rows: RowNumbers) -> Tensor:
        height, width = x.shape[2:]
        tall = rows.integers(*self.sides(height))
        place = rows.uniform(2)
        vertical = self._line(tall, place[:, 0], height)
        # the width of pictures that are not square follows in proportion
        horizontal = self._line(tall * width // height, place[:, 1], width)
        # two products of matrices: the backward of a gather would not be deterministic on GPUs
        with torch.autocast(x.device.type, enabled=False):
            return vertical.unsqueeze(1) @ x.float() @ horizontal.unsqueeze(1).mT

    def _line(self, side: Tensor, place: Tensor, size: int) -> Tensor:
        canvas = self.sides(size)[1]
        corner = (place * (canvas - side)).long()  # below the room left, as in the authors' code
        return resampling(side, corner, size, canvas, self.interpolation)

    def objective(self, value: Objective, rows: RowNumbers) -> Objective:
        """x -> value(T(x)) for one draw of T."""

        def diverse(x: Tensor) -> Tensor:
            coin = rows.uniform() < self.probability
            other = self.resized(x, rows)
            if other.shape == x.shape:
                return value(torch.where(per_sample(coin, x), other, x))
            # the canvas is larger: changed and unchanged pictures do not share a forward
            return torch.where(coin, value(other), value(x))

        return diverse if self.probability else value

    def check(self, key: str, environment: Environment) -> None:
        """UserError for a resize that leaves no pixel, or no choice."""
        side = least_side(environment)
        if self.resize == 1:
            raise UserError(f"{key}.resize", "got 1, which changes no picture", "expected e.g. 0.9")
        if side is not None and self.sides(side)[0] < 1:
            problem = f"got {self.resize}, with which {side} pixels become none"
            raise UserError(f"{key}.resize", problem, f"expected at least {1 / side:.3g}")


class DIM(MomentumAttack):
    """x' ← Proj(x' + a · direction(m)), m ← μ m + g / ‖g‖₁ with the gradient g through T(x'): with
    a probability a resized and padded copy, drawn anew at every step and sample. Attacks on many
    resized copies fit the network less and transfer better.

    The default is DI²-FGSM without momentum; momentum=1 is M-DI²-FGSM. The paper enlarges, from 299
    to at most 330 pixels by nearest neighbor (resize=1.104 interpolation=nearest): the network must
    then accept larger pictures, and a step costs two passes.

    momentum: decay μ of the running sum, at least 0; 0 (paper).
    probability: of changing a picture, 0 to 1; 0.5 (paper).
    resize: bound of the random side over the picture's, above 0 and not 1; 0.9 (torchattacks).
    interpolation: of the resize: `bilinear` or `nearest` (authors' code).
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    images_only: ClassVar[str] = "DIM resizes pictures"

    def __init__(
        self,
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Momentum = 0.0,
        probability: Share = 0.5,
        resize: Resize = 0.9,
        interpolation: Interpolation = "bilinear",
    ):
        super().__init__(steps, step_size, momentum)
        self.diversity = Diversity(probability, resize, interpolation)

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        def gradient(moved: Tensor, buffer: Tensor, number: int) -> Tensor:
            value = self.diversity.objective(victim.value, draw(f"diversity/{number}"))
            return input_gradient(value, moved)

        settings = (self.steps, self.momentum, self.length_of_step(threat), start)
        return momentum_steps(gradient, victim.x, threat, *settings)

    def check(self, key: str, norm: Norm, environment: Environment) -> None:
        super().check(key, norm, environment)
        self.diversity.check(key, environment)
