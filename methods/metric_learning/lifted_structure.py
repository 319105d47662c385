"""Lifted structured loss. Oh Song, Xiang, Jegelka and Savarese, Deep metric learning via lifted
structured feature embedding, CVPR 2016, arXiv 1511.06452; the generalized form is that of Hermans,
Beyer and Leibe, 2017, arXiv 1703.07737."""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.metric_learning.blocks import Block, Rows, summed
from methods.metric_learning.log_sums import log_sum_exp, where_far
from methods.metric_learning.measures import Distance
from methods.metric_learning.metric import Dim, MetricLoss, Scores, Weight
from recipes.contract import Context

Variant = Literal["smooth", "hard", "generalized"]


def nearness(block: Block, margin: float) -> Tensor:
    """α - d of the negatives, [b, R]."""
    return torch.sub(margin, block.negative, out=block.room())


def ends(block: Block, margin: float, hard: bool) -> Tensor:
    """[b], log Σ e^{α-d} over an anchor's negatives, or the largest α - d: one end of each of its
    positive pairs."""
    if hard:
        return (margin - block.negative.amin(1)).clamp_min_(-1e4)
    return log_sum_exp(nearness(block, margin))[0].squeeze(1).clamp_min_(-1e4)


def lifted_structure(block: Block, margin: float, hard: bool) -> Rows:
    """½ Σ [J]²+ over the anchors' positive pairs, J_ij = ends of i and j joined + d_ij; see
    `LiftedStructure`.

    A pair stands in it twice, once for each end, so its derivative by i's end is twice that of i's
    own rows. counts: the pairs.
    """
    assert block.own is not None and block.summary is not None  # the first pass: `ends` of all
    mine, other = block.own[:, None], block.summary[block.index]
    joined = torch.maximum(mine, other) if hard else torch.logaddexp(mine, other)
    excess = torch.where(block.valid, (joined + block.positive).clamp_min(0), 0)
    if hard:
        share = (mine > other).to(mine) + 0.5 * (mine == other).to(mine)
        slope = block.room().zero_().scatter_(1, block.negative.argmin(1, keepdim=True), 1)
    else:
        share = (mine - joined).exp()
        slope = torch.softmax(nearness(block, margin), 1)
    ended = torch.where(
        (block.negatives > 0)[:, None], -2 * (excess * share).sum(1, keepdim=True), 0
    )
    return Rows(
        excess.square().sum() / 2, excess, slope.mul_(ended), counts=block.valid.sum()[None]
    )


def generalized(block: Block, margin: float) -> Rows:
    """Σ over anchors of [log Σ_P e^{d_ap} + log Σ_N e^{α-d_an}]+. counts: the anchors with both."""
    far, by_positive = log_sum_exp(where_far(block.valid, block.positive))
    near, by_negative = log_sum_exp(nearness(block, margin))
    both = block.valid.any(1, keepdim=True) & (block.negatives > 0)[:, None]
    value = torch.where(both, (far + near).clamp_min_(0), 0)
    active = (value > 0).to(far)
    return Rows(
        value.sum(),
        by_positive.mul_(active),
        by_negative.mul_(active.neg()),
        counts=both.sum()[None],
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
        margin: Annotated[float, Field(ge=0)] = 1.0,
        variant: Variant = "smooth",
        weight: Weight = 1.0,
        dim: Dim = 128,
        normalize: bool = False,
    ):
        super().__init__(weight, dim, normalize)
        self.margin, self.variant = margin, variant

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        if self.variant == "generalized":
            total, number = summed(Distance(), partial(generalized, margin=self.margin), x, labels)
        else:
            settings = {"margin": self.margin, "hard": self.variant == "hard"}
            loss, first = partial(lifted_structure, **settings), partial(ends, **settings)
            total, number = summed(Distance(), loss, x, labels, summary=first)
        return total / number[0].clamp_min(1), {}
