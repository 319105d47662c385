"""Soft nearest neighbor loss. Salakhutdinov and Hinton, Learning a nonlinear embedding by
preserving class neighbourhood structure, AISTATS 2007; Frosst, Papernot and Hinton, Analyzing and
improving representations with the soft nearest neighbor loss, ICML 2019, arXiv 1902.01889."""

from typing import cast

import torch
from torch import Tensor, nn

from foundation.types import Count, Scale, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import SquaredDistance
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from recipes.contract import Context


def soft_nearest_neighbor(block: Block) -> BlockLoss:
    """Σ over anchors with a positive of -log( Σ_P e^{-D} / (Σ_P e^{-D} + Σ_N e^{-D}) ).

    counts: these anchors.
    """
    near = block.positive_log_sum(-1.0)
    far = block.negative_log_sum(-1.0, 0.0)
    has_positive = block.valid.any(1, keepdim=True)
    has_negative = (block.negative_count > 0)[:, None]
    # -log(p / (p + n)) = softplus(log n - log p), and its derivative the share of n
    z = far.value - near.value
    losses = torch.where(has_positive & has_negative, torch.nn.functional.softplus(z), 0)
    others = torch.where(has_positive & has_negative, z.sigmoid(), 0)
    return BlockLoss(
        losses.sum(), near.gradient(others), far.gradient(-others), counts=has_positive.sum()[None]
    )


def mean_soft_nearest_neighbor(x: Tensor, labels: Tensor, temperature: Tensor | float) -> Tensor:
    """The mean over anchors with a positive, with D²/τ for D; also a measure of how far classes are
    entangled in any layer. x: [B, d], labels: [B], -1 for none.

    ‖x/√τ - x'/√τ‖² = D²/τ, so τ gets a gradient, too.
    """
    scaled = x / temperature**0.5
    total, anchors = sum_over_anchors(SquaredDistance(), soft_nearest_neighbor, scaled, labels)
    return total / anchors[0].clamp_min(1)


class Rate(nn.Module):
    """log(1/τ), learnt without weight decay."""

    def __init__(self, temperature: float):
        super().__init__()
        self.log_rate = nn.Parameter(-torch.tensor(temperature).log())
        self.log_rate._weight_decay = 0.0  # type: ignore[attr-defined]

    @property
    def temperature(self) -> Tensor:
        return (-self.log_rate).exp()


class SoftNearestNeighbor(MetricLoss):
    """L = -mean over anchors of log( Σ_P e^{-D²/τ} / Σ_{k≠i} e^{-D²/τ} ): the probability that a
    random neighbor is of another class.

    The mean is over anchors with a positive, as those without would cost an infinity. With K = 2
    it is the softmax loss of a pair among all others. On unit vectors 1 - cos is D²/2, so τ on
    cosines is half of τ here. Frosst et al. take unnormalised embeddings of hidden layers and
    maximise it there; here it is minimised. Logged if learnt: `temperature`.

    temperature: τ, above 0; 0.5 (ours), for squared distances of unit vectors in [0, 4]; smaller
        looks at nearer neighbors.
    learnable: learn log(1/τ) from there on (Frosst et al.); false.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; true (Frosst et al.: false).
    """

    def __init__(
        self,
        temperature: Scale = 0.5,
        learnable: bool = False,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.temperature = temperature
        self.learnable = learnable

    def build(self, context: Context) -> None:
        if self.learnable:
            context.method_modules[self.key] = Rate(self.temperature)

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        if not self.learnable:
            return mean_soft_nearest_neighbor(x, labels, self.temperature), {}
        temperature = cast(Rate, self.module(context)).temperature
        value = mean_soft_nearest_neighbor(x, labels, temperature)
        return value, {"temperature": temperature.detach()}
