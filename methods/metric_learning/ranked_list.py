"""Ranked list loss. Wang, Hua, Kodirov, Hu, Garnier and Robertson, Ranked list loss for deep metric
learning, CVPR 2019, arXiv 1903.03238; extended in TPAMI 2021."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.types import Count, Scale, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import MASKED, Distance
from methods.metric_learning.members import count_labeled
from methods.metric_learning.metric import PairLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors

PosNorm = Literal["mined", "all"]


def far_positives(
    block: Block, radius: float, temperature: float, norm: PosNorm
) -> tuple[Tensor, Tensor]:
    """[D - r]+ of each positive and its weight, [b, K]; weights of an anchor add up to 1 over its
    positives beyond the radius, or are 1 / all its positives."""
    excess = torch.where(block.valid, (block.positive - radius).clamp_min(0), 0)
    if norm == "all":
        positives = block.valid.sum(1, keepdim=True).clamp_min(1)
        return excess, (excess > 0).to(excess) / positives
    weights = torch.softmax(torch.where(excess > 0, excess * temperature, -MASKED), 1)
    return excess, torch.where(excess > 0, weights, 0)


def near_negatives(block: Block, boundary: float, temperature: float) -> tuple[Tensor, Tensor]:
    """[α - D]+ of each negative and its weight e^{T(α - D)} / Σ e^{T(α - D)} over those within α,
    [b, R]."""
    excess = torch.sub(boundary, block.negative, out=block.buffer()).clamp_min_(0)
    within = excess > 0
    exponents = (excess * temperature).masked_fill_(~within, -MASKED)
    weights = torch.softmax(exponents, 1, out=exponents)
    return excess, weights.mul_(within)


def ranked_list(
    block: Block,
    alpha: float,
    margin: float,
    temperatures: tuple[float, float],
    weights: tuple[float, float],
    pos_norm: PosNorm = "mined",
) -> BlockLoss:
    """Σ over anchors of λ⁺ Σ_P* w (D - (α - m)) + λ⁻ Σ_N* w (α - D); the w are constants for the
    gradient. temperatures, weights: of positives and of negatives."""
    far, of_far = far_positives(block, alpha - margin, temperatures[0], pos_norm)
    near, of_near = near_negatives(block, alpha, temperatures[1])
    value = weights[0] * (far * of_far).sum() + weights[1] * near.mul_(of_near).sum()
    return BlockLoss(value, of_far * weights[0], of_near.mul_(-weights[1]))


class RankedList(PairLoss):
    """L = (1/B) Σ_i λ⁺ mean_P* [D - (α-m)] + λ⁻ Σ_N* w (α - D), w ∝ e^{T(α-D)}: a class is in a
    ball of radius α - m, all others beyond α.

    D is the unsquared distance of unit vectors. P* are an anchor's positives outside the ball, N*
    its negatives within α, so pairs that are right already do not count, and classes are not
    shrunk to a point. The weights are constants for the gradient. The mean is over all samples with
    a label. The authors let only the anchor move; here its references do, too, as every sample is
    an anchor. The sum of the paper has λ⁺ = λ⁻ = 1, the extended version λ and 1 - λ.

    alpha: α, distance from which a negative costs nothing, above 0; 1.2 (paper).
    margin: m, between the ball and α, at least 0 and at most α; 0.4 (paper).
    temperature: T of negatives, at least 0; 10 (paper); 0 weights all alike.
    pos_temperature: T of positives, at least 0; 0 (paper); above it in the extended version.
    pos_weight: λ⁺, at least 0; 1 (paper).
    neg_weight: λ⁻, at least 0; 1 (paper).
    pos_norm: divide the positives' sum by those outside the ball, `mined` (paper), or by `all`.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 512).
    normalize: L2-normalise the embedding; true (paper).
    """

    def __init__(
        self,
        alpha: Scale = 1.2,
        margin: Weight = 0.4,
        temperature: Weight = 10.0,
        pos_temperature: Weight = 0.0,
        pos_weight: Weight = 1.0,
        neg_weight: Weight = 1.0,
        pos_norm: PosNorm = "mined",
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        if margin > alpha:
            raise UserError(
                f"methods.ranked_list.margin={margin}: leaves no ball inside "
                f"methods.ranked_list.alpha={alpha}; expected at most {alpha}"
            )
        if pos_weight == neg_weight == 0:
            raise UserError(
                "methods.ranked_list.pos_weight=0: with methods.ranked_list.neg_weight=0 the loss "
                "is 0 whatever the network; expected one of them above 0"
            )
        if normalize and alpha > 2:
            raise UserError(
                f"methods.ranked_list.alpha={alpha}: no two unit vectors are farther apart than 2; "
                "expected at most 2, or methods.ranked_list.normalize=false"
            )
        self.alpha = alpha
        self.margin = margin
        self.temperatures = (pos_temperature, temperature)
        self.weights = (pos_weight, neg_weight)
        self.pos_norm = pos_norm

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        loss = partial(
            ranked_list,
            alpha=self.alpha,
            margin=self.margin,
            temperatures=self.temperatures,
            weights=self.weights,
            pos_norm=self.pos_norm,
        )
        total, _ = sum_over_anchors(Distance(), loss, x, labels, references, reference_labels)
        return total / count_labeled(labels), {}
