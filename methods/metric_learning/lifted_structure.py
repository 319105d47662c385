"""Lifted structured loss. Oh Song, Xiang, Jegelka and Savarese, Deep metric learning via lifted structured feature
embedding, CVPR 2016, arXiv 1511.06452; the generalized form is that of Hermans, Beyer and Leibe, 2017, arXiv
1703.07737."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.metric_learning.metric import Dim, MetricLoss, Scores, Weight
from methods.metric_learning.pairs import Pairs, distances, log_sum_exp, mean_where, pairs_of
from recipes.recipe import Recipe

Variant = Literal["smooth", "hard", "generalized"]


def lifted_structure(d: Tensor, pairs: Pairs, margin: float, variant: Variant = "smooth") -> Tensor:
    """1/(2|P|) Σ_P [J_ij]²+ over positive pairs of a batch, d [B, B] their distances; see `LiftedStructure`.

    The negatives of both ends of a pair are summed from one log-sum-exp a row, so no number is kept for a pair of a
    positive and a negative pair.
    """
    if variant == "generalized":
        hinge = log_sum_exp(d, pairs.positive) + log_sum_exp(margin - d, pairs.negative)
        return mean_where(hinge.clamp_min(0), pairs.positive.any(1) & pairs.negative.any(1))
    if variant == "smooth":
        row = log_sum_exp(margin - d, pairs.negative)
        ends = torch.logaddexp(row[:, None], row)
    else:
        row = torch.where(pairs.negative, margin - d, -1e4).amax(1)
        ends = torch.maximum(row[:, None], row)
    # an unordered pair stands twice in the mask, in the sum as in the count
    return mean_where((ends + d).clamp_min(0).square(), pairs.positive) / 2


class LiftedStructure(MetricLoss):
    """L = 1/(2|P|) Σ_P [J_ij]²+, J_ij = log( Σ_{N(i)} e^{α-D_ik} + Σ_{N(j)} e^{α-D_jl} ) + D_ij over positive pairs.

    Every positive pair is held against all negatives of both its ends. D is the unsquared distance of unnormalised
    embeddings; its square in the hinge makes gradients grow with J, so clip them where embeddings are long.

    margin α: 1. variant: `smooth`, the form above, which the paper trains; `hard` takes the largest α - D instead of
    the logarithm (its lower bound); `generalized` is one term an anchor, [log Σ_P e^{D_ap} + log Σ_N e^{α-D_an}]+.
    weight: 1. dim: 128, width of the embedding. normalize: whether the head ends on the sphere; not in the paper.
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

    def loss(self, x: Tensor, labels: Tensor, task: str, recipe: Recipe) -> tuple[Tensor, Scores]:
        return lifted_structure(distances(x, x), pairs_of(labels), self.margin, self.variant), {}
