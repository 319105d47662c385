"""Improved triplet loss. Cheng, Gong, Zhou, Wang and Zheng, Person re-identification by
multi-channel parts-based CNN with improved triplet loss function, CVPR 2016."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from foundation.types import Count, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import Distance, SquaredDistance
from methods.metric_learning.metric import PairLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from methods.metric_learning.triplet import all_triplets


def improved_triplet(
    block: Block, margin: float, pos_margin: float, pos_weight: float
) -> BlockLoss:
    """Σ over triplets of [D_ap - D_an + m]+ + β [D_ap - τ]+, τ the pos_margin, β the pos_weight.

    counts: the triplets above 0 in the first term, and all.
    """
    triplets = all_triplets(block, margin)
    assert triplets.grad_positive is not None and triplets.active is not None
    # a positive pair stands in as many triplets as its anchor has negatives
    repeats = block.negative_count[:, None].to(block.positive) * pos_weight
    excess = torch.where(block.valid, (block.positive - pos_margin).clamp_min(0), 0)
    beyond = excess > 0
    return triplets._replace(
        value=triplets.value + (excess * repeats).sum(),
        grad_positive=triplets.grad_positive + beyond * repeats,
        active=triplets.active + beyond.sum(),
    )


class ImprovedTriplet(PairLoss):
    """L = mean over triplets of max(D_ap - D_an, -m) + β max(D_ap, τ): a triplet loss that also
    keeps each class within a distance.

    D is the squared distance. The triplet loss compares distances and leaves a class as wide as it
    likes; the second term bounds D_ap itself. With the maxima the least loss is βτ - m, which is
    below 0: a negative loss is no error. `form=hinge` shifts it by that, with the same gradient, so
    that it is 0 when all is fulfilled. Logged as `active`: the share of triplets above 0 in the
    first term.

    margin: m = -τ1, at least 0; 1 (paper).
    pos_margin: τ = τ2, distance up to which a positive pair costs nothing, at least 0; 0.01
        (paper).
    pos_weight: β, weight of the second term, at least 0; 0.002 (paper); 1 in some surveys.
    form: `max` (paper), or `hinge`, [D_ap - D_an + m]+ + β [D_ap - τ]+.
    squared: D = ‖·‖² (paper); false: ‖·‖.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; true.
    """

    def __init__(
        self,
        margin: Weight = 1.0,
        pos_margin: Weight = 0.01,
        pos_weight: Weight = 0.002,
        form: Literal["max", "hinge"] = "max",
        squared: bool = True,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.margin = margin
        self.pos_margin = pos_margin
        self.pos_weight = pos_weight
        self.form = form
        self.squared = squared

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        loss = partial(
            improved_triplet,
            margin=self.margin,
            pos_margin=self.pos_margin,
            pos_weight=self.pos_weight,
        )
        measure = SquaredDistance() if self.squared else Distance()
        total, counts = sum_over_anchors(measure, loss, x, labels, references, reference_labels)
        active, triplets = counts.unbind()
        value = total / triplets.clamp_min(1)
        if self.form == "max":
            # max(z, -m) = [z + m]+ - m, and max(z, τ) = [z - τ]+ + τ
            least = self.pos_weight * self.pos_margin - self.margin
            value = torch.where(triplets > 0, value + least, value)
        return value, {"active": active / triplets.clamp_min(1)}
