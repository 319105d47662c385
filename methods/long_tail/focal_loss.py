"""Focal loss. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.errors import UserError
from methods.focal import modulation
from methods.long_tail.sigmoid import SOFTMAX_ONLY, binary_costs, start_rare, summed
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import Role


def sigmoid_cost(logits: Tensor, gamma: float, alpha: float | None = None) -> Tensor:
    """ℓ_y = Σ_c -α_c (1 - q_c)^γ log q_c, [N, C], q_c = s(z_c) for c = y and 1 - s(z_c) else; α_y =
    α, others 1 - α."""
    positive, negative = binary_costs(logits)
    # -log(1 - s) is `negative`, so e^{-γ negative} = (1 - s)^γ
    positive_losses = torch.exp(-gamma * negative) * positive
    negative_losses = torch.exp(-gamma * positive) * negative
    if alpha is not None:
        positive_losses = alpha * positive_losses
        negative_losses = (1 - alpha) * negative_losses
    return summed(positive_losses, negative_losses)


class FocalLoss(Method):
    """FL = -(1 - p_y)^γ log p_y: down-weights well-classified samples.

    Class weights are multiplied last, so that p is the model's probability, not a weighted one as
    in implementations that pass the weights to the cross-entropy. logits [N, C], in float32;
    targets indices or dense; losses on pseudo-labels do not change. It does not correct the class
    prior and can be combined with a method that does.

    gamma: exponent γ, at least 0; 2 (paper; long-tailed CIFAR: 0.5 to 2); 0: cross-entropy.
    mode: `softmax` or `sigmoid`, the paper's detection form. `softmax`: a factor (1 - p_y)^γ of the
        criterion, with gradient, from the logits of the loss; `sigmoid`: C binary losses, summed
        over classes and averaged over samples (= divided by the positives, not by N·C), and the
        heads' biases start at -log(C - 1).
    alpha: weight of the positive in mode sigmoid, 0 to 1, 1 - alpha of negatives; null: none. 0.25
        is for detection.
    """

    neutral = {"gamma": 0}

    def __init__(
        self,
        gamma: Annotated[float, Field(ge=0)] = 2.0,
        mode: Literal["softmax", "sigmoid"] = "softmax",
        alpha: Annotated[float, Field(ge=0, le=1)] | None = None,
    ):
        if alpha is not None and mode == "softmax":
            raise UserError(
                f"methods.focal_loss.alpha={alpha:g}: only mode=sigmoid has negatives to weight; "
                "set it to null, and weight classes by long_tail=[focal_loss,class_balanced_loss]"
            )
        self.gamma = gamma
        self.mode = mode
        self.alpha = alpha

    def declare(self) -> Declaration:
        tags = ("focal",)
        if self.mode == "softmax":
            return Declaration(tags=tags, sharded=True)
        return Declaration(
            slots=("class_losses",),
            tags=tags,
            refuses={"adjusts_logits": SOFTMAX_ONLY},
            sharded=True,
        )

    def build(self, context: Context) -> None:
        if self.mode == "sigmoid":
            start_rare(context)

    def class_losses(
        self, step: Step, logits: Tensor, task: str, role: Role, context: Context
    ) -> Tensor | None:
        if self.mode != "sigmoid" or role != "labeled":
            return None
        return sigmoid_cost(logits, self.gamma, self.alpha)

    def sample_weights(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor | None:
        if self.mode != "softmax" or role != "labeled":
            return None
        return modulation(logits, self.gamma)
