"""Contrastive loss. Hadsell, Chopra and LeCun, Dimensionality reduction by learning an invariant
mapping, CVPR 2006; on cosines as Wang, Zhang, Huang and Scott, Cross-batch memory for embedding
learning, CVPR 2020, arXiv 1912.06798, train it."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from foundation.types import Count, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import CosineDistance, Distance
from methods.metric_learning.members import count_labeled, count_pairs
from methods.metric_learning.metric import PairLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from methods.metric_learning.reductions import OfPairs

Power = Literal[1, 2]
Divisors = tuple[Tensor | int, Tensor | int]


def active_pairs(block: Block, positive_margin: float, negative_margin: float) -> Tensor:
    """How many positives are farther and how many negatives nearer than their margin, [b, 2].

    A positive at its margin counts: the distance of duplicates is 0 or what rounding makes of it,
    and the mean may not depend on which.
    """
    positive = block.valid & (block.positive >= positive_margin)
    negative = torch.lt(block.negative, negative_margin, out=block.buffer())
    return torch.stack([positive.sum(1), negative.sum(1).long()], 1)


def contrastive(
    block: Block,
    positive_margin: float,
    negative_margin: float,
    power: int,
    divisors: Divisors | None = None,
) -> BlockLoss:
    """Σ_P (1/p) [D - m⁺]+^p / divisor⁺ + Σ_N (1/p) [m⁻ - D]+^p / divisor⁻, p the power.

    divisors: of positive and of negative pairs; None: how many of them are above 0 in all blocks,
    which the first pass counted. counts: the pairs above 0.
    """
    if divisors is None:
        assert block.summary is not None  # the first pass: `active_pairs` of all
        active = block.summary.sum(0).clamp_min(1)
        divisors = (active[0], active[1])
    positives, negatives = divisors
    attract = torch.where(block.valid, (block.positive - positive_margin).clamp_min(0), 0)
    repel = torch.sub(negative_margin, block.negative, out=block.buffer()).clamp_min_(0)
    counts = torch.stack([(attract > 0).sum(), (repel > 0).sum()])
    if power == 2:
        value = attract.square().sum() / (2 * positives) + repel.square().sum() / (2 * negatives)
    else:
        value = attract.sum() / positives + repel.sum() / negatives
        attract = attract.sign_()
        repel = repel.sign_()
    # the derivative of z²/2 is z, and that of z is 1
    grads = (attract / positives, repel.div_(negatives).neg_())
    return BlockLoss(value, *grads, counts=counts, symmetric=True)


class Contrastive(PairLoss):
    """L = mean over P of ½ [D - m⁺]+² + mean over N of ½ [m⁻ - D]+²: pairs of one class come
    together, others go m⁻ apart.

    D is the distance of the embeddings; P and N are the positive and negative pairs of the batch
    above 0. The paper sums over a list of pairs that was made beforehand; in a batch there are B/K
    times as many negatives as positives, so each side has a mean of its own. Libraries differ in
    `power`, so margins do not carry over. Logged as `active`: the share of negatives above 0.

    positive_margin: m⁺, distance up to which a positive pair costs nothing, at least 0; 0 (paper).
    negative_margin: m⁻, distance from which a negative pair costs nothing, at least 0; 1, on
        cosines 0.5 (Wang et al.).
    power: 2, squares with the factor ½ (paper), or 1, without it (Wang et al.).
    distance: `euclidean` (paper), or `cosine`, 1 - cos (Wang et al.).
    reduction: `mean_nonzero`, `mean_each`, `mean_all` or `mean_batch` (Wang et al.). Each side is
        divided by its pairs above 0, or by all of them; both by all pairs, or by the samples.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; true.
    """

    def __init__(
        self,
        positive_margin: Weight = 0.0,
        negative_margin: Weight = 1.0,
        power: Power = 2,
        distance: Literal["euclidean", "cosine"] = "euclidean",
        reduction: OfPairs = "mean_nonzero",
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.power = power
        self.distance = distance
        self.reduction = reduction

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        pairs = count_pairs(labels, reference_labels)
        margins = (self.positive_margin, self.negative_margin)
        first_pass = None
        divisors: Divisors | None = None
        if self.reduction == "mean_nonzero":
            first_pass = partial(
                active_pairs, positive_margin=margins[0], negative_margin=margins[1]
            )
        elif self.reduction == "mean_each":
            divisors = pairs
        elif self.reduction == "mean_all":
            divisors = (pairs[0] + pairs[1], pairs[0] + pairs[1])
        else:
            divisors = (count_labeled(labels), count_labeled(labels))
        measure = CosineDistance() if self.distance == "cosine" else Distance()

        def loss(block: Block) -> BlockLoss:
            return contrastive(block, *margins, power=self.power, divisors=divisors)

        total, active = sum_over_anchors(
            measure, loss, x, labels, references, reference_labels, summary=first_pass
        )
        return total, {"active": active[1] / pairs[1]}
