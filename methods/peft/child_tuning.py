"""Child-Tuning. Xu et al., Raise a Child in Large Language Model: Towards Effective and
Generalizable Fine-tuning, EMNLP 2021, arXiv 2109.05687."""

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.randomness import generator
from recipes.contract import Context, Declaration, Method
from recipes.contract.method import Closure


def mask_gradients(
    parameters: Iterable[nn.Parameter], keep: float, source: torch.Generator
) -> None:
    """g ← g ⊙ M / p with M ~ Bernoulli(p) elementwise, in place; parameters without a gradient
    draw nothing.

    keep: p. source: generator on the parameters' device.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        mask = torch.empty_like(gradient, dtype=torch.float32).bernoulli_(keep, generator=source)
        gradient.mul_(mask.div_(keep).to(gradient.dtype))


class ChildTuning(Method):
    """g ← g ⊙ M / p, M ~ Bernoulli(p) elementwise and new in every optimizer step: the whole
    network is trained, each time by a random part of its gradient (the task-free form, F).

    A regulariser for full fine-tuning on small sets: E[g] is unchanged, its variance grows to σ² +
    (1-p)/p (σ² + μ²). The mask is drawn for all trained tensors, heads included, after the
    gradients have been summed over micro-batches, ranks and the passes of other methods, and before
    clipping and the optimizer's moments; it is equal on all ranks. Adam divides most of the factor
    1/p out again. Weight decay acts on all weights. Nothing is frozen or added, so checkpoints have
    the size of the network. The form by Fisher information (D) is not available: it needs a pass
    over the training set before the run. Learning rates: those of full fine-tuning.

    keep: p, share of the gradient that is kept, in (0, 1]; 0.3 (paper: 0.2, 0.3 or 0.4); 1 changes
        nothing.
    """

    neutral = {"keep": 1}
    # outermost: one mask for the gradient that all passes of a step have left
    declaration = Declaration(before=("repeats_batches",))

    def __init__(self, keep: Annotated[float, Field(gt=0, le=1)] = 0.3):
        self.keep = keep

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: Context) -> Any:
        loss = closure()
        if self.keep < 1:
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            step = context.trainer.global_step
            source = generator(context.seed, step, self.key, device=device_of(trained))
            mask_gradients(trained, self.keep, source)
        return loss


def device_of(tensors: Iterable[Tensor]) -> torch.device:
    return next(iter(tensors)).device
