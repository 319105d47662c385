"""Equalization loss. Tan et al., Equalization Loss for Long-Tailed Object Recognition, CVPR 2020,
arXiv 2003.05176."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.long_tail.sigmoid import SOFTMAX_ONLY, binary_costs, start_rare, summed
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import Role

# In place of log 0: e^FLOOR is 0, and its gradient is not NaN. It stands for -∞ as long as the
# logits of a sample differ by less than that; beyond it a dropped class would weigh again.
FLOOR = -1e4


def equalized_cost(logits: Tensor, drop: Tensor) -> Tensor:
    """ℓ_y = log(e^{z_y} + Σ_{k≠y} (1 - d_k) e^{z_k}) - z_y for every y, [N, C].

    drop: d in [0, 1], [C] or [N, C], the share of a class's weight as a negative that is removed
        from the denominator.
    """
    z = logits.float()
    # With S = Σ_k (1 - d_k) e^{z_k} the denominator of y is S + d_y e^{z_y}: it is never 0 and
    # needs no C x C table.
    log_sum = (z + torch.log1p(-drop).clamp_min(FLOOR)).logsumexp(1, keepdim=True)
    return torch.logaddexp(log_sum, z + torch.log(drop).clamp_min(FLOOR)) - z


def sigmoid_cost(logits: Tensor, drop: Tensor) -> Tensor:
    """ℓ_y = -log s_y - Σ_{k≠y} (1 - d_k) log(1 - s_k), [N, C]."""
    positive, negative = binary_costs(logits)
    return summed(positive, (1 - drop) * negative)


class EqualizationLoss(Method):
    """L = -log(e^{z_y} / Σ_k w_k e^{z_k}), w_k = 1 - b·T(π_k)·(1 - [k = y]): rare classes are not
    suppressed as negatives of the others.

    T(π) = [π < threshold], π the class frequencies. If all negatives are dropped, the loss is 0.
    The exact loss of every class is one [N, C] table, so mixed targets need no special case. Losses
    on pseudo-labels do not change.

    gamma: probability γ of b = 1, 0 to 1; 0.9 (paper).
    threshold: λ, frequency below which a class is rare, 0 to 1; 0.005 (CIFAR-100-LT at factor 100).
        0.05 on CIFAR-10-LT, 4.3e-4 on ImageNet-LT.
    drop: `bernoulli`: b is drawn (paper); `fixed`: b = γ.
    granularity: one draw per sample and `class`, or one for the whole `batch`.
    mode: `softmax` or `sigmoid`, the detection form with C binary losses. With `sigmoid` rare
        classes are always dropped as negatives (γ, drop and granularity are not used) and losses
        are summed over classes; the heads' biases start at -log(C - 1).
    """

    neutral = {"gamma": 0, "threshold": 0}

    def __init__(
        self,
        gamma: Annotated[float, Field(ge=0, le=1)] = 0.9,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.005,
        drop: Literal["bernoulli", "fixed"] = "bernoulli",
        granularity: Literal["class", "batch"] = "class",
        mode: Literal["softmax", "sigmoid"] = "softmax",
    ):
        self.gamma = gamma
        self.threshold = threshold
        self.mode = mode
        self.drop = drop
        self.granularity = granularity

    def declare(self) -> Declaration:
        refuses = {"adjusts_logits": SOFTMAX_ONLY} if self.mode == "sigmoid" else {}
        return Declaration(slots=("prior_correction", "class_losses"), refuses=refuses)

    def build(self, context: Context) -> None:
        if self.mode == "sigmoid":
            start_rare(context)

    def class_losses(
        self, step: Step, logits: Tensor, task: str, role: Role, context: Context
    ) -> Tensor | None:
        if role != "labeled":
            return None
        counts = context.statistics.counts(task)
        rare = (counts / counts.sum() < self.threshold).float()
        if self.mode == "sigmoid":
            return sigmoid_cost(logits, rare)
        return equalized_cost(logits, rare * self.dropped(step, logits, task))

    def dropped(self, step: Step, logits: Tensor, task: str) -> Tensor | float:
        """b: γ itself, or drawn, [N, C] or [1]; a replay draws the same values."""
        if self.drop == "fixed":
            return self.gamma
        purpose = f"{self.key}/{task}"
        if self.granularity == "batch":
            return step.randomness.shared(purpose).bernoulli(self.gamma).float()
        rows = step.randomness.draw(purpose, len(logits))
        return rows.bernoulli(self.gamma, logits.shape[1]).float()
