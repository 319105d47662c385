"""Smoothing of the input before an unchanged network: the local filters of Xu, Evans and Qi,
Feature Squeezing, NDSS 2018, arXiv 1704.01155. It is not the certified randomized smoothing of
Cohen et al. (2019)."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from foundation.randomness import SampleRandomness
from recipes.contract import Context, Declaration, Method
from recipes.step import Embedded

Filter = Literal["median", "mean", "gaussian"]


def mirror_padded(x: Tensor, before: int, after: int) -> Tensor:
    """[N, C, H, W] mirrored at its borders, the edge repeated (SciPy's `reflect`, which torch does
    not have)."""
    for dimension in (2, 3):
        extent = x.shape[dimension]
        position = torch.arange(-before, extent + after, device=x.device) % (2 * extent)
        x = x.index_select(dimension, torch.minimum(position, 2 * extent - 1 - position))
    return x


def windows(x: Tensor, size: int) -> Tensor:
    """[N, C, H, W, size²]; a window of even size reaches up and left."""
    padded = mirror_padded(x, size // 2, size - 1 - size // 2)
    return padded.unfold(2, size, 1).unfold(3, size, 1).flatten(4)


def median(x: Tensor, size: int) -> Tensor:
    """Median by channel; for an even number of pixels the upper of the two in the middle."""
    # a full sort, not `kthvalue`, which ONNX does not have
    return windows(x, size).sort(dim=4).values[..., size * size // 2]


def mean(x: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(mirror_padded(x, size // 2, size - 1 - size // 2), size, stride=1)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Kernel exp(-i² / 2σ²), |i| ≤ ⌊4σ + ½⌋, with sum one, along both axes."""
    radius = int(4 * sigma + 0.5)
    channels = x.shape[1]
    offset = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.softmax(-offset.square() / (2 * sigma**2), dim=0).repeat(channels, 1, 1, 1)
    rows = F.conv2d(mirror_padded(x, radius, radius), kernel, groups=channels)
    return F.conv2d(rows, kernel.mT, groups=channels)


class Smoothing(Method):
    """z = f(smooth(x)) at evaluation: a local filter in front of a network that is trained without
    it.

    It protects only against attacks that do not model it: evaluate with evaluate.attack, which
    differentiates through it. Mean and Gaussian are linear and have exact gradients; the median has
    the gradient of the identity (backward pass differentiable approximation, Athalye et al. 2018).
    The raw network is evaluated as well.

    filter: local filter: `median` (paper), `mean` or `gaussian`.
    window: side of the median's and mean's window in pixels, at least 1; 3.
    sigma: standard deviation of the Gaussian in pixels, above 0; 1.
    """

    declaration = Declaration(modalities=("image",))

    def __init__(
        self,
        filter: Filter = "median",
        window: Annotated[int, Field(ge=1)] = 3,
        sigma: Annotated[float, Field(gt=0)] = 1.0,
    ):
        self.filter = filter
        self.window = window
        self.sigma = sigma

    def smooth(self, x: Tensor) -> Tensor:
        if self.filter == "gaussian":
            return gaussian(x, self.sigma)
        if self.filter == "mean":
            return mean(x, self.window)
        # x - sg(x) is zero, and its gradient one
        return median(x.detach(), self.window) + (x - x.detach())

    def transform_input(
        self, embedded: Embedded, randomness: SampleRandomness, context: Context
    ) -> Embedded:
        return Embedded(self.smooth(embedded.x))
