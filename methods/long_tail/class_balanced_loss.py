"""Class-balanced loss. Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR
2019, arXiv 1901.05555."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.long_tail.class_weights import ClassWeighting, Reduction, with_sum_of_classes
from recipes.contract import Context


def effective_number_weights(counts: Tensor, beta: float, normalize: bool) -> Tensor:
    """w_c = (1 - β) / (1 - β^{n_c}), float32 [C] from counts [C]; with `normalize` their mean over
    the classes that occur is 1.

    A class without samples has weight 0.
    """
    n = counts.detach().cpu().double()
    known = n > 0
    denominator = torch.ones_like(n)
    if beta > 0:
        # expm1 in float64: β^n is close to 1 for small n, where 1 - β^n would cancel
        denominator = -torch.expm1(n.clamp_min(1) * math.log(beta))
    weights = torch.where(known, (1 - beta) / denominator, 0.0)
    if normalize:
        weights = with_sum_of_classes(weights)
    return weights.float()


class ClassBalancedLoss(ClassWeighting):
    """L = (1/N) Σ_i w_{y_i} CE(z_i, y_i), w_c = 1/E_c with the effective number E_c = (1 - β^{n_c})
    / (1 - β).

    A class without samples has weight 0 and is excluded from the normalization. The weight of the
    true class multiplies the sample's loss, whatever that loss is. So the paper's other forms are
    combinations, long_tail=[class_balanced_loss,focal_loss]: softmax focal; with
    methods.focal_loss.mode=sigmoid sigmoid focal; and with gamma=0 as well, binary cross-entropy.
    Mixed targets: Σ_c w_c t_c ℓ_c. Losses on pseudo-labels do not change.

    beta: β of the effective number, in [0, 1); 0.9999 (paper on CIFAR-10; ImageNet: 0.999). 0 gives
        equal weights, β → 1 inverse frequencies.
    normalize: scale of the class weights: `sum_c`: they sum to C (paper); `none`: 1/E_c. `none` is
        at most 1 and shrinks the loss with n.
    reduction: divide the loss by `batch` N (paper) or by `weight` Σ_i w_{y_i}. `weight` is over the
        global batch (with accumulation: of each micro-batch, not of the step); the scale of the
        weights does not matter then.
    """

    neutral = {"beta": 0}

    def __init__(
        self,
        beta: Annotated[float, Field(ge=0, lt=1)] = 0.9999,
        normalize: Literal["sum_c", "none"] = "sum_c",
        reduction: Reduction = "batch",
    ):
        self.beta = beta
        self.normalize = normalize == "sum_c"
        self.reduction = reduction

    def class_weights(self, task: str, context: Context) -> Tensor:
        counts = context.statistics.counts(task)
        return effective_number_weights(counts, self.beta, self.normalize)
