"""Multi-similarity loss. Wang, Han, Huang, Dong and Scott, Multi-similarity loss with general pair
weighting for deep metric learning, CVPR 2019, arXiv 1904.06627."""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from methods.metric_learning.blocks import Block, Rows, summed
from methods.metric_learning.log_sums import log_one_plus_sum_exp, where_far
from methods.metric_learning.measures import FAR, Cosine
from methods.metric_learning.members import labelled
from methods.metric_learning.metric import Dim, PairLoss, Scores, Weight

Scale = Annotated[float, Field(gt=0)]


def mined(block: Block, epsilon: float) -> tuple[Tensor, Tensor]:
    """Of the positives [b, K] those less similar than the most similar negative plus ε: which. Of
    the negatives [b, R], in place, those more similar than the least similar positive minus ε."""
    hardest_negative = block.negative.amax(1, keepdim=True)
    hardest_positive = where_far(block.valid, block.positive, FAR).amin(1, keepdim=True)
    dropped = torch.le(block.negative, hardest_positive - epsilon, out=block.room())
    return block.valid & (block.positive < hardest_negative + epsilon), block.negative.add_(
        dropped, alpha=-FAR
    )


def multi_similarity(
    block: Block, alpha: float, beta: float, base: float, epsilon: float | None
) -> Rows:
    """Σ over anchors of log(1 + Σ_P e^{-α(S-λ)}) / α + log(1 + Σ_N e^{β(S-λ)}) / β. base: λ."""
    valid, negative = (block.valid, block.negative) if epsilon is None else mined(block, epsilon)
    pull, by_positive = log_one_plus_sum_exp(where_far(valid, (block.positive - base).mul_(-alpha)))
    push, by_negative = log_one_plus_sum_exp(negative.sub_(base).mul_(beta), out=block.room())
    return Rows(
        torch.add(pull.div_(alpha), push, alpha=1 / beta).sum(), by_positive.neg_(), by_negative
    )


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
        dim: Dim = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.alpha, self.beta, self.base, self.epsilon = alpha, beta, base, epsilon

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
        total, _ = summed(Cosine(), loss, x, labels, references, reference_labels)
        return total / labelled(labels), {}
