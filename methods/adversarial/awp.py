"""Adversarial weight perturbation. Wu, Xia and Wang, Adversarial Weight Perturbation Helps Robust
Generalization, NeurIPS 2020, arXiv 2004.05884."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from foundation.types import Share
from methods.directions import nonzero
from methods.perturbed_weights import TWO_OPTIMIZERS, perturbed
from recipes.contract import Closure, Context, Declaration, Method


@torch.no_grad()
def perturbation(weights: list[Tensor], gradients: list[Tensor], gamma: float) -> list[Tensor]:
    """v = γ ‖w‖ g / ‖g‖, layer by layer; zero where the gradient or the weight is zero."""
    weight_norms = torch._foreach_norm(weights)
    largest = torch.stack(torch._foreach_norm(gradients, torch.inf))
    scaled = list(torch._foreach_div(gradients, nonzero(largest).unbind()))
    norms = torch.stack(torch._foreach_norm(scaled))
    factors = gamma * torch.stack(weight_norms) / nonzero(norms)
    torch._foreach_mul_(scaled, factors.unbind())
    return scaled


class AWP(Method):
    """The gradient of the step is computed at w + v, v = γ ‖w‖ g / ‖g‖ for weight tensors w of two
    dimensions or more.

    g is the gradient of the whole loss at w, averaged over ranks; biases and normalization
    parameters do not change. Weights are restored bit for bit before the optimizer's step, so
    weight decay acts on w (authors' code: on w + v, and g from a step of a copied model, which has
    the same direction). The second pass has the attack, views and dropout masks of the first;
    statistics and metrics count only the first. It works with plain training, pgd_at and trades,
    and doubles the cost of forward and backward.

    gamma: γ, norm of the perturbation relative to the weights', at least 0; 0.01 (paper; with
        trades: 0.005).
    warmup: share of the run before the first perturbation, 0 to 1; 0 (paper's trades: 10 epochs).
    """

    neutral = {"gamma": 0}
    declaration = Declaration(
        slots=("two_passes",),
        tags=("repeats_batches",),
        refuses={"second_optimizer": TWO_OPTIMIZERS},
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
        with perturbed(weights, perturbation(weights, gradients, self.gamma)), context.replay():
            closure()
        return loss
