"""Multi-similarity loss. Wang, Han, Huang, Dong and Scott, Multi-similarity loss with general pair
weighting for deep metric learning, CVPR 2019, arXiv 1904.06627."""

from functools import partial

import torch
from torch import Tensor

from foundation.types import Count, Scale, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import MASKED, Cosine
from methods.metric_learning.members import count_labeled
from methods.metric_learning.metric import PairLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors


def mined(block: Block, epsilon: float) -> Block:
    """The hard pairs of each anchor: positives with S < max_N S + ε, negatives with
    S > min_P S - ε."""
    hardest_negative = block.negative.amax(1, keepdim=True)
    positive = torch.where(block.valid, block.positive, MASKED)
    hardest_positive = positive.amin(1, keepdim=True)
    return block.hard_pairs(hardest_negative + epsilon, hardest_positive - epsilon)


def multi_similarity(
    block: Block, alpha: float, beta: float, base: float, epsilon: float | None
) -> BlockLoss:
    """Σ over anchors of (1/α) log[1 + Σ_P e^{-α(S-λ)}] + (1/β) log[1 + Σ_N e^{β(S-λ)}], S the
    cosine, over the pairs that `mined` leaves. base: λ. epsilon: ε, None mines nothing."""
    if epsilon is not None:
        block = mined(block, epsilon)
    pull = block.positive_log_sum(-alpha, base, plus_one=True)
    push = block.negative_log_sum(beta, base, plus_one=True)
    value = pull.value / alpha + push.value / beta
    # the -α of the exponent times the 1/α in front, and the β times the 1/β
    return BlockLoss(value.sum(), pull.gradient(-1.0), push.share)


class MultiSimilarity(PairLoss):
    """L = (1/B) Σ_i { (1/α) log[1 + Σ_P e^{-α(S_ij-λ)}] + (1/β) log[1 + Σ_N e^{β(S_ij-λ)}] } over
    the mined pairs.

    S is the cosine. Mining keeps what is hard for an anchor: positives with S - ε < max_N S,
    negatives with S + ε > min_P S, decided without gradient. Self is excluded by position, not (as
    the authors' code does, losing duplicates) by S < 1.

    alpha: α, scale of positives, above 0; 2 (paper).
    beta: β, scale of negatives, above 0; 50 (paper; some of the authors' configs: 40).
    base: λ, cosine at which pairs begin to count; 0.5 (authors' code; the paper prints 1).
    epsilon: ε, margin of the mining; 0.1 (paper); null: all pairs.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; true; the loss takes cosines either way.
    """

    def __init__(
        self,
        alpha: Scale = 2.0,
        beta: Scale = 50.0,
        base: float = 0.5,
        epsilon: float | None = 0.1,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.epsilon = epsilon

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        loss = partial(
            multi_similarity, alpha=self.alpha, beta=self.beta, base=self.base, epsilon=self.epsilon
        )
        total, _ = sum_over_anchors(Cosine(), loss, x, labels, references, reference_labels)
        return total / count_labeled(labels), {}
