"""Multi-similarity loss. Wang, Han, Huang, Dong and Scott, Multi-similarity loss with general pair weighting for deep
metric learning, CVPR 2019, arXiv 1904.06627."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from methods.metric_learning.metric import Dim, PairLoss, Scores, Weight
from methods.metric_learning.pairs import Pairs, log_one_plus_sum_exp

Scale = Annotated[float, Field(gt=0)]


@torch.no_grad()
def mined(cosine: Tensor, pairs: Pairs, epsilon: float) -> Pairs:
    """Positives less similar than the most similar negative plus ε, negatives more similar than the least similar
    positive minus ε, by row of `cosine` [B, R]."""
    hardest_negative = torch.where(pairs.negative, cosine, float("-inf")).amax(1, keepdim=True)
    hardest_positive = torch.where(pairs.positive, cosine, float("inf")).amin(1, keepdim=True)
    return Pairs(
        pairs.positive & (cosine - epsilon < hardest_negative),
        pairs.negative & (cosine + epsilon > hardest_positive),
        pairs.anchors,
    )


def multi_similarity(cosine: Tensor, pairs: Pairs, alpha: float, beta: float, base: float) -> Tensor:
    """Mean over anchors of log(1 + Σ_P e^{-α(S-λ)}) / α + log(1 + Σ_N e^{β(S-λ)}) / β, anchors without pairs as 0.

    cosine: S [B, R]. base: λ.
    """
    pull = log_one_plus_sum_exp(-alpha * (cosine - base), pairs.positive) / alpha
    push = log_one_plus_sum_exp(beta * (cosine - base), pairs.negative) / beta
    return (pull + push).sum() / pairs.anchors.sum().clamp_min(1)


class MultiSimilarity(PairLoss):
    """L = (1/B) Σ_i { (1/α) log[1 + Σ_P e^{-α(S_ij-λ)}] + (1/β) log[1 + Σ_N e^{β(S_ij-λ)}] } over the mined pairs.

    S is the cosine. Mining keeps what is hard for an anchor: positives with S - ε < max_N S, negatives with
    S + ε > min_P S, decided without gradient. Self is excluded by position, not (as the authors' code does, losing
    duplicates) by S < 1.

    alpha α: 2, weight of positives. beta β: 50, of negatives (40 in some of the authors' configs). base λ: .5 as in
    the authors' code; the paper prints 1. epsilon ε: .1, null mines nothing. weight: 1. dim: 128, width of the
    embedding. normalize: whether the head ends on the sphere; the loss takes cosines either way.
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

    def between(self, x: Tensor, references: Tensor, pairs: Pairs) -> tuple[Tensor, Scores]:
        cosine = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(references, dim=1).T
        kept = pairs if self.epsilon is None else mined(cosine, pairs, self.epsilon)
        return multi_similarity(cosine, kept, self.alpha, self.beta, self.base), {}
