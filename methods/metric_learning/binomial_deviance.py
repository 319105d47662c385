"""Binomial deviance loss. Yi, Lei and Li, Deep metric learning for person re-identification, ICPR
2014, arXiv 1407.4979, in the form of Ustinova and Lempitsky, 2016, arXiv 1611.00822."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.types import Count, Scale, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import Cosine
from methods.metric_learning.members import count_pairs
from methods.metric_learning.metric import PairLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors

MASKED_EXPONENT = 1e4  # e^-10000 is 0; the softplus of -1e30 would take far longer


def binomial_deviance(
    block: Block, alpha: float, neg_alpha: float, base: float, pairs: tuple[Tensor, Tensor]
) -> BlockLoss:
    """1/|P| Σ_P log(1 + e^{-α(S-β)}) + 1/|N| Σ_N log(1 + e^{α'(S-β)}), S the cosine, β the base.

    neg_alpha: α'. pairs: |P| and |N| of the whole batch.
    """
    pull = torch.where(block.valid, (base - block.positive).mul_(alpha), -MASKED_EXPONENT)
    push = torch.sub(block.negative, base, out=block.negative).mul_(neg_alpha)
    push.clamp_min_(-MASKED_EXPONENT)
    value = F.softplus(pull).sum() / pairs[0] + F.softplus(push).sum() / pairs[1]
    # the derivative of softplus is the sigmoid
    return BlockLoss(
        value,
        pull.sigmoid_().mul_(-alpha / pairs[0]),
        push.sigmoid_().mul_(neg_alpha / pairs[1]),
        symmetric=True,
    )


class BinomialDeviance(PairLoss):
    """L = 1/|P| Σ_P log(1 + e^{-α(S-β)}) + 1/|N| Σ_N log(1 + e^{αC(S-β)}): a logistic loss of each
    pair by its cosine S.

    Every pair of the batch counts, positives and negatives as one mean each. C stands in the
    exponent, so a negative above β costs C times what a positive below it does, and one below it
    nearly nothing. In the form softplus(α(D-λ)) + softplus(β'(λ-D)) with D = 1 - S it has λ = 1 - β
    and β' = αC. With C = 1 both sides weigh the same.

    alpha: α, scale of the cosines, above 0; 2 (paper).
    threshold: β, cosine between the classes; 0.5 (paper).
    negative_cost: C, cost of a negative over a positive, above 0; 25; 10 for re-identification.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; true; the loss takes cosines either way.
    """

    def __init__(
        self,
        alpha: Scale = 2.0,
        threshold: float = 0.5,
        negative_cost: Scale = 25.0,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.alpha = alpha
        self.threshold = threshold
        self.negative_cost = negative_cost

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        loss = partial(
            binomial_deviance,
            alpha=self.alpha,
            neg_alpha=self.alpha * self.negative_cost,
            base=self.threshold,
            pairs=count_pairs(labels, reference_labels),
        )
        return sum_over_anchors(Cosine(), loss, x, labels, references, reference_labels)[0], {}
