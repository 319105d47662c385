"""Circle loss. Sun, Cheng, Zhang, Zhang, Zheng, Wang and Wei, Circle loss: a unified perspective of
pair similarity optimization, CVPR 2020, arXiv 2002.10857."""

import math
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from foundation.types import Count, Scale, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.log_sums import EXACT, LogSum, log_sum_exp
from methods.metric_learning.measures import MASKED, Cosine
from methods.metric_learning.members import count_labeled
from methods.metric_learning.metric import PairLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from methods.metric_learning.reductions import OfAnchors

Scope = Literal["anchor", "batch"]
LEAST = -1e4  # stands for the logarithm of an empty sum: e^-10000 is 0


def weighted_sums(
    block: Block, gamma: float, margin: float, paced: bool
) -> tuple[LogSum, Tensor, LogSum, Tensor]:
    """log Σ_P e^{-γ a⁺ (S - 1 + m)} and a⁺ = [1 + m - S]+, log Σ_N e^{γ a⁻ (S - m)} and a⁻ =
    [S + m]+; the a are 1 if not paced. The shares are those of the exponents."""
    pace_p = torch.ones_like(block.positive)
    pace_n = block.buffer().fill_(1)
    if paced:
        pace_p = (1 + margin - block.positive).clamp_min_(0)
        # masked entries keep a weight, so that their exponent stays the least
        pace_n = torch.add(block.negative, margin, out=pace_n).clamp_min_(0)
    pull = (block.positive - (1 - margin)).mul_(pace_p).mul_(-gamma)
    pull = torch.where(block.valid, pull, -MASKED)
    push = (block.negative - margin).mul_(pace_n).mul_(gamma)
    push = torch.where(block.negative > -MASKED / 2, push, -MASKED)
    return log_sum_exp(pull), pace_p, log_sum_exp(push), pace_n


def circle(block: Block, gamma: float, margin: float, paced: bool = True) -> BlockLoss:
    """Σ over anchors of softplus(log Σ_N e^{γ a⁻ (S - m)} + log Σ_P e^{-γ a⁺ (S - 1 + m)}).

    The weights a are constants for the gradient. counts: the anchors above 0, and all with both
    sides.
    """
    near, pace_p, far, pace_n = weighted_sums(block, gamma, margin, paced)
    both = block.has_both
    z = torch.where(both, far.value + near.value, -MASKED)
    losses = softplus(z, threshold=EXACT)
    slope = z.sigmoid() * gamma
    counts = torch.stack([(losses > 0).sum(), both.sum()])
    return BlockLoss(
        losses.sum(),
        near.gradient(-slope).mul_(pace_p),
        far.gradient(slope).mul_(pace_n),
        counts=counts,
    )


def anchor_sums(block: Block, gamma: float, margin: float, paced: bool) -> Tensor:
    """The logarithms of both sums of each anchor, [b, 2]."""
    near, _, far, _ = weighted_sums(block, gamma, margin, paced)
    return torch.cat([near.value, far.value], 1).clamp_min_(LEAST)


def batch_circle(block: Block, gamma: float, margin: float, paced: bool = True) -> BlockLoss:
    """softplus(log Σ_N … + log Σ_P …) with sums over the unordered pairs of the whole batch, each
    block's part by its share of the anchors."""
    assert block.own is not None and block.summary is not None  # the first pass: `anchor_sums`
    near, pace_p, far, pace_n = weighted_sums(block, gamma, margin, paced)
    # every unordered pair stands in two rows
    totals = block.summary.logsumexp(0)
    z = totals.sum() - 2 * math.log(2)
    any_both = (totals > LEAST / 2).all()
    z = torch.where(any_both, z, -MASKED)
    value = softplus(z, threshold=EXACT) * (len(block.own) / len(block.summary))
    slope = z.sigmoid() * gamma
    of_anchor = (block.own - totals).exp() * slope  # the anchor's part of either sum
    return BlockLoss(
        value,
        near.gradient(-of_anchor[:, :1]).mul_(pace_p),
        far.gradient(of_anchor[:, 1:]).mul_(pace_n),
        counts=any_both.long().repeat(2),
    )


class Circle(PairLoss):
    """L = mean over anchors of log[1 + Σ_N e^{γ a⁻ (S-m)} Σ_P e^{-γ a⁺ (S-1+m)}], a⁻ = [S+m]+ and
    a⁺ = [1+m-S]+ without gradient.

    S is the cosine. Each pair is weighted by how far it is from its optimum, 1 + m for positives
    and -m for negatives, so a pair that is good already is left alone and the boundary between
    classes is a circle in the plane of both similarities. The weights are constants: a gradient
    through them would be another loss.

    gamma: γ, scale, above 0; 80 (paper, for retrieval; 128 for re-identification, 256 for
        faces).
    margin: m, relaxation; 0.4 (paper: 0.4 for retrieval, else 0.25).
    scope: what makes a term: the pairs of one `anchor` (paper), or all of the `batch`. The latter,
        as in many re-implementations, is ruled by the worst pair.
    paced: weight pairs by a⁻ and a⁺ (paper); false: by 1, a softmax over pairs with a margin.
    reduction: `mean_anchor` (paper), `mean_nonzero` or `mean_batch`. They differ where an anchor
        lacks a side or its loss is below the least number.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 512).
    normalize: L2-normalise the embedding; true; the loss takes cosines either way.
    """

    def __init__(
        self,
        gamma: Scale = 80.0,
        margin: float = 0.4,
        scope: Scope = "anchor",
        paced: bool = True,
        reduction: OfAnchors = "mean_anchor",
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.gamma = gamma
        self.margin = margin
        self.scope = scope
        self.paced = paced
        self.reduction = reduction

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        settings: dict[str, Any] = {
            "gamma": self.gamma,
            "margin": self.margin,
            "paced": self.paced,
        }
        sides = (x, labels, references, reference_labels)
        if self.scope == "batch":
            first_pass = partial(anchor_sums, **settings)
            loss = partial(batch_circle, **settings)
            return sum_over_anchors(Cosine(), loss, *sides, summary=first_pass)[0], {}
        total, counts = sum_over_anchors(Cosine(), partial(circle, **settings), *sides)
        if self.reduction == "mean_batch":
            return total / count_labeled(labels), {}
        nonzero, anchors = counts.unbind()
        divisor = nonzero if self.reduction == "mean_nonzero" else anchors
        return total / divisor.clamp_min(1), {}
