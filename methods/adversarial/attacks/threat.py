"""The threat model: a ball around the input, intersected with the range of valid inputs."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.randomness import RowNumbers
from methods.directions import unit
from recipes.step import Embedded

Norm = Literal["linf", "l2"]
Radius = (
    Annotated[float, Field(ge=0)]
    | Annotated[
        str, Field(pattern=r"^\d+(\.\d+)?/[1-9]\d*$", description="a fraction such as 8/255")
    ]
)
TINY = 1e-12


def radius(value: float | str) -> float:
    """A radius or a step in units of the input: a number, or a fraction such as `8/255`."""
    above, _, below = str(value).partition("/")
    return float(above) / float(below or 1)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[N] reshaped to broadcast with [N, ...]."""
    return values.view(-1, *([1] * (like.ndim - 1)))


def length(delta: Tensor) -> Tensor:
    """‖δ_i‖₂ of every sample over all its entries, [N]."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1)


@dataclass(frozen=True)
class Threat:
    """‖δ‖ ≤ eps in a norm, x + δ in the box.

    norm: `linf` or `l2`, over all entries of a sample.
    eps: radius in units of the input (pixels in [0, 1]); inf: no ball.
    box: range of the input, None for inputs without one (word embeddings).
    mask: [N, L], True on the tokens of a text that may change: real tokens.
    """

    norm: Norm
    eps: float
    box: tuple[float, float] | None = (0.0, 1.0)
    mask: Tensor | None = None

    @classmethod
    def around(cls, embedded: Embedded, norm: Norm, eps: float) -> "Threat":
        """The threat to a network's continuous input: pixels stay in [0, 1]; padding does not
        change."""
        box = (0.0, 1.0) if embedded.mask is None else None
        return cls(norm, eps, box, embedded.mask)

    def masked(self, delta: Tensor) -> Tensor:
        """δ with zeros on padding."""
        if self.mask is None:
            return delta
        return delta * self.mask.unsqueeze(-1).to(delta.dtype)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest ascent of length one: sign g, or g / ‖g‖₂; zero where the gradient is zero
        or not finite."""
        gradient = self.masked(torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0))
        if self.norm == "linf":
            return gradient.sign()
        return unit(gradient)

    def project(self, x: Tensor, moved: Tensor) -> Tensor:
        """The point of the ball around x nearest to `moved`, then clipped to the box."""
        delta = self.masked(moved - x)
        if self.norm == "linf":
            delta = delta.clamp(-self.eps, self.eps)
        else:
            factor = (self.eps / length(delta).clamp_min(TINY)).clamp_max(1.0)
            delta = delta * per_sample(factor, delta)
        return x + delta if self.box is None else (x + delta).clamp(*self.box)

    def random_start(self, x: Tensor, rows: RowNumbers) -> Tensor:
        """δ₀: uniform in the linf ball; l2: a random direction with length eps · U(0, 1), as in
        torchattacks, which is nearer to x than a uniform point of the ball."""
        if self.norm == "linf":
            return self.masked(rows.uniform(*x.shape[1:], low=-self.eps, high=self.eps))
        normal = self.masked(rows.normal(*x.shape[1:]))
        size = self.eps * rows.uniform() / length(normal).clamp_min(TINY)
        return normal * per_sample(size, normal)
