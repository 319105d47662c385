"""Lifted structured loss. Oh Song, Xiang, Jegelka and Savarese, Deep metric learning via lifted
structured feature embedding, CVPR 2016, arXiv 1511.06452; the generalized form is that of Hermans,
Beyer and Leibe, 2017, arXiv 1703.07737."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from foundation.types import Count, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import Distance
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from recipes.contract import Context

Variant = Literal["smooth", "hard", "generalized"]


LEAST_END = -1e4  # in place of -∞, that of an anchor without negatives: e^-10000 is 0


def ends(block: Block, margin: float, hard: bool) -> Tensor:
    """log Σ_N e^{α-D} of each anchor, [b], or max_N (α - D): what each end of a positive pair
    brings to it."""
    if hard:
        end = margin - block.negative.amin(1)
    else:
        end = block.negative_log_sum(-1, margin).value.squeeze(1)
    return end.clamp_min_(LEAST_END)


def lifted_structure(block: Block, margin: float, hard: bool) -> BlockLoss:
    """½ Σ [J_ij]²+ over the anchors' positive pairs, J_ij = log(e^{end_i} + e^{end_j}) + D_ij with
    the `ends` of i and j; hard: J_ij = max(end_i, end_j) + D_ij.

    counts: the pairs. Every pair stands in the sum over anchors twice, as ij and as ji, so its
    derivative by end_i is twice that of i's own row.
    """
    assert block.own is not None and block.summary is not None  # the first pass: `ends` of all
    own = block.own[:, None]
    other = block.summary[block.positive_index]
    joined = torch.maximum(own, other) if hard else torch.logaddexp(own, other)
    excess = torch.where(block.valid, (joined + block.positive).clamp_min(0), 0)

    # ∂J_ij/∂end_i, [b, K], and ∂end_i/∂(α - D_ik), [b, R]
    if hard:
        by_end = (own > other).to(own) + 0.5 * (own == other).to(own)
        by_negative = block.buffer().zero_().scatter_(1, block.negative.argmin(1, keepdim=True), 1)
    else:
        by_end = (own - joined).exp()
        by_negative = block.negative_softmax(-1, margin)
    grad_end = -2 * (excess * by_end).sum(1, keepdim=True)
    grad_end = torch.where((block.negative_count > 0)[:, None], grad_end, 0)
    value = excess.square().sum() / 2
    return BlockLoss(value, excess, by_negative.mul_(grad_end), counts=block.valid.sum()[None])


def generalized(block: Block, margin: float) -> BlockLoss:
    """Σ over anchors of [log Σ_P e^{D_ap} + log Σ_N e^{α-D_an}]+. counts: the anchors with both."""
    far = block.positive_log_sum()
    near = block.negative_log_sum(-1, margin)
    has_both = block.has_both
    value = torch.where(has_both, (far.value + near.value).clamp_min_(0), 0)
    active = (value > 0).to(value)
    return BlockLoss(
        value.sum(), far.gradient(active), near.gradient(-active), counts=has_both.sum()[None]
    )


class LiftedStructure(MetricLoss):
    """L = 1/(2|P|) Σ_P [J_ij]²+, J_ij = log( Σ_{N(i)} e^{α-D_ik} + Σ_{N(j)} e^{α-D_jl} ) + D_ij
    over positive pairs.

    Every positive pair is held against all negatives of both its ends. D is the unsquared distance
    of unnormalised embeddings; its square in the hinge makes gradients grow with J, so clip them
    where embeddings are long.

    margin: α of the negatives, at least 0; 1 (paper).
    variant: `smooth`, the formula (paper), `hard` (its lower bound) or `generalized` (Hermans et
        al.). `hard` takes the largest α - D instead of the logarithm; `generalized` is one term an
        anchor, [log Σ_P e^{D_ap} + log Σ_N e^{α-D_an}]+.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; false (paper).
    """

    def __init__(
        self,
        margin: Weight = 1.0,
        variant: Variant = "smooth",
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = False,
    ):
        super().__init__(weight, dim, normalize)
        self.margin = margin
        self.variant = variant

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        if self.variant == "generalized":
            loss = partial(generalized, margin=self.margin)
            total, count = sum_over_anchors(Distance(), loss, x, labels)
        else:
            hard = self.variant == "hard"
            loss = partial(lifted_structure, margin=self.margin, hard=hard)
            first_pass = partial(ends, margin=self.margin, hard=hard)
            total, count = sum_over_anchors(Distance(), loss, x, labels, summary=first_pass)
        return total / count[0].clamp_min(1), {}
