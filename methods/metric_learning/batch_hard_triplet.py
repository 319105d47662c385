"""Batch hard triplet loss. Hermans, Beyer and Leibe, In defense of the triplet loss for person
re-identification, 2017, arXiv 1703.07737."""

from foundation.types import Count, Weight
from methods.metric_learning.triplet import Mining, Triplet


class BatchHardTriplet(Triplet):
    """L = mean over anchors of log(1 + e^{max_P D - min_N D + m}): each sample's farthest positive
    is to be nearer than its nearest negative.

    `triplet` with the settings of this paper: unsquared distances of unnormalised embeddings, one
    triplet an anchor, the soft margin, a mean over all anchors that have a positive and a negative,
    those of loss 0 included. A loss that stays at log 2 (soft) or m is a collapse: lower the rate,
    or use `mining=semi_hard`. Logged as `active`: the share of anchors with D_ap > D_an - m.

    margin: m, at least 0; 0 with the soft margin (paper); without it 0.1 to 1.
    soft: softplus for the hinge (paper, its best); false: [max_P D - min_N D + m]+.
    mining: `batch_hard`, or another of `triplet`; those of all triplets have no `soft`.
    squared: D = ‖·‖²; false (paper).
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper).
    normalize: L2-normalise the embedding; false (paper).
    """

    name = "batch_hard_triplet"

    def __init__(
        self,
        margin: Weight = 0.0,
        soft: bool = True,
        mining: Mining = "batch_hard",
        squared: bool = False,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = False,
    ):
        super().__init__(margin, mining, squared, soft, None, weight, dim, normalize)
