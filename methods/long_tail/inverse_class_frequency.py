"""Inverse class frequency. The classical weights of imbalanced classification: King and Zeng,
Logistic Regression in Rare Events Data, Political Analysis 2001; with an exponent as in Mahajan et
al., Exploring the Limits of Weakly Supervised Pretraining, ECCV 2018, arXiv 1805.00932."""

from typing import Literal

import torch
from torch import Tensor

from foundation.types import Weight
from methods.long_tail.class_weights import ClassWeighting, Reduction, with_sum_of_classes
from recipes.contract import Context

Norm = Literal["sum_c", "total", "balanced", "min"]


def inverse_frequencies(counts: Tensor, gamma: float, norm: Norm) -> Tensor:
    """w_c ∝ n_c^-γ, float32 [C] from counts [C], on the scale `norm`; 0 for a class without
    samples."""
    n = counts.detach().cpu().double()
    known = n > 0
    # the smallest class has weight 1: no power of a count overflows
    smallest = torch.where(known, n, torch.inf).amin()
    weights = torch.where(known, (smallest / n.clamp_min(1)) ** gamma, 0.0)
    if norm == "sum_c":
        weights = with_sum_of_classes(weights)
    elif norm == "total":
        weights = weights * (n.sum() / smallest) ** gamma
    elif norm == "balanced":
        weights = weights * n.sum() / (n * weights).sum().clamp_min(1e-300)
    return weights.float()


class InverseClassFrequency(ClassWeighting):
    """L = (1/N) Σ_i w_{y_i} CE(z_i, y_i), w_c ∝ n_c^-γ: every class has the same share of the loss.

    The plain form, for comparison: with heavy tails its large weights on few samples cost accuracy
    (CIFAR-100-LT at factor 100: worse than cross-entropy), and class_balanced_loss or a shift of
    the logits does better. The weight of the true class multiplies the sample's loss, whatever that
    loss is; mixed targets: Σ_c w_c t_c ℓ_c. A class without samples has weight 0 and is excluded
    from the scale. Losses on pseudo-labels do not change. γ = 0 and equal counts are cross-entropy.

    gamma: exponent γ, at least 0; 1: inverse frequencies, 0.5: of their square roots, 0: none.
    norm: scale of the weights: `sum_c`: they sum to C (ours); `total`: (Σ n / n_c)^γ; `balanced`:
        their mean over samples is 1 (scikit-learn); `min`: (n_min / n_c)^γ. With reduction `batch`
        a scale is a factor of the learning rate: `total` multiplies the loss by C, where γ = 1.
    reduction: divide the loss by `batch` N or by `weight` Σ_i w_{y_i}. `weight` is over the global
        batch (with accumulation: of each micro-batch); the scale does not matter then.
    """

    neutral = {"gamma": 0}

    def __init__(
        self,
        gamma: Weight = 1.0,
        norm: Norm = "sum_c",
        reduction: Reduction = "batch",
    ):
        self.gamma = gamma
        self.norm: Norm = norm
        self.reduction = reduction

    def class_weights(self, task: str, context: Context) -> Tensor:
        return inverse_frequencies(context.statistics.counts(task), self.gamma, self.norm)
