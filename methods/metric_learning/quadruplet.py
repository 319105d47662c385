"""Quadruplet loss. Chen, Chen, Zhang and Huang, Beyond triplet loss: a deep quadruplet network for
person re-identification, CVPR 2017, arXiv 1704.01719."""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from foundation.types import Count, Weight
from methods.metric_learning.measures import Distance, SquaredDistance
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from methods.metric_learning.pairwise import pair_masks, safe_root, squared_distances
from methods.metric_learning.reductions import OfTriplets
from methods.metric_learning.triplet import all_triplets
from recipes.contract import Context


class Partners(NamedTuple):
    """of_positive: [B, B], with how many negative pairs of two other classes each positive pair is
    above 0. of_negative: with how many positive pairs each negative one is; summed over (l, k) and
    (k, l). quadruplets: how many there are."""

    of_positive: Tensor
    of_negative: Tensor
    quadruplets: Tensor


def class_ranges(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Where the class of each place of a sorted tensor starts, and the place behind its end."""
    return torch.searchsorted(classes, classes), torch.searchsorted(classes, classes, right=True)


@torch.no_grad()
def active_partners(d: Tensor, labels: Tensor, margin: Tensor | float) -> Partners:
    """Σ over quadruplets of [d_ij - d_lk + m]+ = Σ k_ij (d_ij + m) - Σ k_lk d_lk, the k from one
    sort of all B² pairs and not from B⁴ quadruplets.

    A positive pair ij meets all negative pairs but those that touch its class. Among ordered pairs
    these are twice the ones of which the first sample is of the class.
    """
    size = len(labels)
    positive, negative = pair_masks(labels)
    keys = torch.where(positive, d + margin, torch.where(negative, d, torch.inf)).flatten()
    order = keys.argsort(stable=True)
    is_positive = positive.flatten().long()
    is_negative = negative.flatten().long()
    partners = torch.zeros_like(order)
    below = is_negative[order].cumsum(0)
    above = is_positive.sum() - is_positive[order].cumsum(0)
    partners[order] = torch.where(positive.flatten()[order], below, above)

    # the same among the pairs whose first sample is of one class
    first = labels.repeat_interleave(size)[order]
    by_class = first.argsort(stable=True)
    order = order[by_class]
    start, end = class_ranges(first[by_class])
    before = torch.nn.functional.pad(is_negative[order].cumsum(0), (1, 0))
    up_to = torch.nn.functional.pad(is_positive[order].cumsum(0), (1, 0))
    place = torch.arange(len(order), device=d.device)
    below = before[place + 1] - before[start]
    above = up_to[end] - up_to[place + 1]
    partners[order] -= 2 * torch.where(positive.flatten()[order], below, above)

    touching = 2 * (negative.sum(1)[:, None] * (labels[:, None] == labels)).sum(0)
    quadruplets = (positive.sum(1) * (negative.sum() - touching)).sum()
    partners = partners.view(size, size)
    return Partners(partners * positive, partners * negative, quadruplets)


def other_pairs(
    d: Tensor, labels: Tensor, margin: Tensor | float, reduction: OfTriplets = "mean_all"
) -> Tensor:
    """The mean over quadruplets of [d_ij - d_lk + m]+, y_i = y_j and three classes among i, l, k.
    d: [B, B]."""
    partners = active_partners(d.detach(), labels, margin)
    # differences of large sums
    positives = (partners.of_positive * (d.double() + margin)).sum()
    negatives = (partners.of_negative * d.double()).sum()
    count = partners.quadruplets
    if reduction == "mean_nonzero":
        count = partners.of_positive.sum()
    return ((positives - negatives) / count.clamp_min(1)).to(d.dtype)


class Quadruplet(MetricLoss):
    """L = mean over triplets of [D_ij - D_ik + m1]+ + mean over quadruplets of [D_ij - D_lk + m2]+,
    y_i = y_j and i, k, l of three classes.

    The second term compares a positive pair with negative pairs that do not have its anchor, so
    that all distances within classes are below all between them. All quadruplets of the batch
    count, exactly, from sorted distances; D is the squared distance of embeddings in place of the
    paper's learnt similarity. The two negatives must be of two classes: many implementations take
    any two samples. The paper sums; here each term is a mean.

    margin_mode: `fixed`, or `batch` (paper), margins that follow the distances of the batch. They
        are times the mean negative minus the mean positive distance, without gradient, and may be
        below 0 early.
    margin: m1, at least 0; 1 (paper, for both modes).
    margin_other: m2, at least 0, below m1 in the paper; 0.5.
    squared: D = ‖·‖² (paper); false: ‖·‖, in some surveys with both margins 1.
    reduction: divide each term by all, `mean_all`, or by those above 0, `mean_nonzero`.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; true.
    """

    samples_in_batch = 4
    classes_in_batch = 3

    def __init__(
        self,
        margin_mode: Literal["fixed", "batch"] = "fixed",
        margin: Weight = 1.0,
        margin_other: Weight = 0.5,
        squared: bool = True,
        reduction: OfTriplets = "mean_all",
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.margin_mode = margin_mode
        self.margin = margin
        self.margin_other = margin_other
        self.squared = squared
        self.reduction = reduction

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        d = squared_distances(x)
        if not self.squared:
            d = safe_root(d)
        gap = self.gap(d.detach(), labels)
        of_triplets = partial(all_triplets, margin=gap * self.margin)
        measure = SquaredDistance() if self.squared else Distance()
        total, counts = sum_over_anchors(measure, of_triplets, x, labels)
        active, triplets = counts.unbind()
        count = active if self.reduction == "mean_nonzero" else triplets
        first = total / count.clamp_min(1)
        second = other_pairs(d, labels, gap * self.margin_other, self.reduction)
        return first + second, {
            "active": active / triplets.clamp_min(1),
            "other_pairs": second.detach(),
        }

    def gap(self, d: Tensor, labels: Tensor) -> Tensor:
        """What margins are multiples of: 1, or mean D of negatives minus that of positives."""
        if self.margin_mode == "fixed":
            return torch.ones_like(d[0, 0])
        positive, negative = pair_masks(labels)
        means = [(d * mask).sum() / mask.sum().clamp_min(1) for mask in (negative, positive)]
        return means[0] - means[1]
