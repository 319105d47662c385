"""Sharpness-aware minimisation. Foret, Kleiner, Mobahi and Neyshabur, ICLR 2021, arXiv 2010.01412;
the adaptive form after Kwon, Kim, Park and Choi, ASAM, ICML 2021, arXiv 2102.11600."""

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import torch
from pydantic import Field
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from recipes.contract import Closure, Context, Declaration, Method


def ascent(
    weights: list[Tensor], gradients: list[Tensor], rho: float, adaptive: bool
) -> list[Tensor]:
    """ε = ρ g / ‖g‖₂, the norm over all parameters together; adaptive: ε = ρ w² g / ‖ |w| g ‖₂.

    Both are free of the gradient's scale, so a loss scaler changes nothing.
    """
    scaled = (
        [w.abs() * g for w, g in zip(weights, gradients, strict=True)] if adaptive else gradients
    )
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(scaled)))
    # a zero gradient gives a zero ascent, not 0/0
    factor = rho / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    steps = [w.abs() * s for w, s in zip(weights, scaled, strict=True)] if adaptive else scaled
    return [factor * s for s in steps]


class SAM(Method):
    """The gradient of the optimizer step is taken at w + ε, ε = ρ g/‖g‖; weights are then restored
    bit for bit.

    The second pass runs on the same batch, views and dropout masks; batch-norm statistics, averages
    and metrics count the first pass only. Twice the cost of a plain step.

    rho: radius ρ of the ascent in weight space, at least 0; 0.05 (paper; adaptive: about 10 times
        as much).
    adaptive: scale the ascent by |w| (ASAM); false (SAM).
    sync: average the first gradients over ranks; false: each rank's own (paper's m-sharpness). With
        true n ranks equal one.
    """

    def __init__(
        self, rho: Annotated[float, Field(ge=0)] = 0.05, adaptive: bool = False, sync: bool = False
    ):
        self.rho = rho
        self.adaptive = adaptive
        self.sync = sync

    def declare(self) -> Declaration:
        return Declaration(
            slots=("two_passes",),
            refuses={
                "second_optimizer": "two gradients a step and two optimizers have no agreed order"
            },
            accumulation=False,
            ddp_exact=self.sync,
            ddp_difference="weights ascend by each device's own gradient; sync=true averages it",
        )

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: Context) -> Any:
        with nullcontext() if self.sync else per_device(context):
            loss = closure()
        weights = [
            p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        with torch.no_grad():
            before = [w.clone() for w in weights]
            gradients = [w.grad for w in weights if w.grad is not None]
            torch._foreach_add_(weights, ascent(weights, gradients, self.rho, self.adaptive))
        with context.replay():
            closure()
        with torch.no_grad():
            torch._foreach_copy_(weights, before)
        return loss


def per_device(context: Context) -> AbstractContextManager[Any]:
    """Leave out the averaging of gradients over ranks, where there are ranks."""
    strategy = context.trainer.strategy
    return (
        strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()
    )
