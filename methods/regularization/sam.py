"""Sharpness-aware minimization. Foret, Kleiner, Mobahi and Neyshabur, ICLR 2021, arXiv 2010.01412;
the adaptive form after Kwon, Kim, Park and Choi, ASAM, ICML 2021, arXiv 2102.11600."""

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import torch
from pydantic import Field
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from methods.directions import nonzero
from methods.perturbed_weights import TWO_OPTIMIZERS, parameters_with_gradient, perturbed
from recipes.contract import Closure, Context, Declaration, Method


@torch.no_grad()
def ascent(
    weights: list[Tensor], gradients: list[Tensor], rho: float, adaptive: bool
) -> list[Tensor]:
    """ε = ρ g / ‖g‖₂, the norm over all parameters together; adaptive: ε = ρ w² g / ‖ |w| g ‖₂.

    Neither depends on the gradient's scale, so a loss scaler has no effect.
    """
    scales = [w.abs() for w in weights] if adaptive else []
    scaled = _products(scales, gradients) if adaptive else gradients
    largest = torch.stack(torch._foreach_norm(scaled, torch.inf)).amax()
    scaled = list(torch._foreach_div(scaled, nonzero(largest)))
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(scaled)))
    factor = rho / nonzero(norm)
    steps = _products(scales, scaled) if adaptive else scaled
    torch._foreach_mul_(steps, factor)  # in place: `scaled` is a copy already
    return steps


def _products(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    return [a * b for a, b in zip(first, second, strict=True)]


class SAM(Method):
    """The gradient of the optimizer step is computed at w + ε, ε = ρ g/‖g‖; weights are then
    restored bit for bit.

    The second pass has the same batch, views and dropout masks; batch-norm statistics, EMA and
    metrics count the first pass only. It doubles the cost of forward and backward.

    rho: radius ρ of the ascent in weight space, at least 0; 0.05 (paper; adaptive: about 10 times
        as much).
    adaptive: scale the ascent by |w| (ASAM); false (SAM).
    sync: average the first gradients over ranks; false: each rank's own (paper's m-sharpness). With
        true n ranks equal one.
    """

    neutral = {"rho": 0}

    def __init__(
        self, rho: Annotated[float, Field(ge=0)] = 0.05, adaptive: bool = False, sync: bool = False
    ):
        self.rho = rho
        self.adaptive = adaptive
        self.sync = sync

    def declare(self) -> Declaration:
        return Declaration(
            slots=("two_passes",),
            tags=("repeats_batches",),
            refuses={"second_optimizer": TWO_OPTIMIZERS},
            accumulation=False,
            ddp_exact=self.sync,
            ddp_difference="weights ascend by each device's own gradient; sync=true averages it",
        )

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: Context) -> Any:
        with nullcontext() if self.sync else per_device(context):
            loss = closure()
        weights = parameters_with_gradient(optimizer)
        gradients = [w.grad for w in weights if w.grad is not None]
        offsets = ascent(weights, gradients, self.rho, self.adaptive)
        # climb to w + ε, compute the gradient there, and return to w
        with perturbed(weights, offsets), context.replay():
            closure()
        return loss


def per_device(context: Context) -> AbstractContextManager[Any]:
    """Disable the averaging of gradients over ranks, if there are several."""
    strategy = context.trainer.strategy
    if isinstance(strategy, ParallelStrategy):
        return strategy.block_backward_sync()
    return nullcontext()
