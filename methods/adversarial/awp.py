"""Adversarial weight perturbation. Wu, Xia and Wang, Adversarial Weight Perturbation Helps Robust
Generalization, NeurIPS 2020, arXiv 2004.05884."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from foundation.types import Share
from recipes.contract import Closure, Context, Declaration, Method


def perturbation(weights: list[Tensor], gradients: list[Tensor], gamma: float) -> list[Tensor]:
    """v = γ ‖w‖ g / ‖g‖, layer by layer; zero where the gradient or the weight is zero."""
    lengths, slopes = torch._foreach_norm(weights), torch._foreach_norm(gradients)
    factors = [
        gamma * w / g.clamp_min(torch.finfo(g.dtype).tiny)
        for w, g in zip(lengths, slopes, strict=True)
    ]
    return [factor * g for factor, g in zip(factors, gradients, strict=True)]


class AWP(Method):
    """The gradient of the step is taken at w + v, v = γ ‖w‖ g / ‖g‖ for weight tensors w of two
    dimensions or more.

    g is the gradient of the whole loss at w, averaged over ranks; biases and normalisations are
    left alone. Weights are restored bit for bit before the optimizer's step, so weight decay acts
    on w (authors' code: on w + v, and g by a step of a copied model, which gives the same
    direction). The attack, views and dropout masks of the second pass are those of the first;
    statistics and metrics count the first alone. Around plain training as well as pgd_at or trades,
    at twice the cost of their forward and backward.

    gamma: γ, length of the perturbation relative to the weights', at least 0; 0.01 (paper; with
        trades: 0.005).
    warmup: share of the run before it begins, 0 to 1; 0 (paper's trades: 10 epochs).
    """

    declaration = Declaration(
        slots=("two_passes",),
        refuses={
            "second_optimizer": "two gradients a step and two optimizers have no agreed order"
        },
        accumulation=False,
    )

    def __init__(self, gamma: Annotated[float, Field(ge=0)] = 0.01, warmup: Share = 0.0):
        self.gamma = gamma
        self.warmup = warmup

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: Context) -> Any:
        loss = closure()
        if context.trainer.global_step < self.warmup * context.total_steps:
            return loss
        parameters = context.network.parameters()
        weights: list[Tensor] = [p for p in parameters if p.grad is not None and p.ndim >= 2]
        gradients = [p.grad for p in weights if p.grad is not None]
        with torch.no_grad():
            before = [w.clone() for w in weights]
            torch._foreach_add_(weights, perturbation(before, gradients, self.gamma))
        with context.replay():
            closure()
        with torch.no_grad():
            torch._foreach_copy_(weights, before)
        return loss
