"""What methods with several passes per step share: perturbed weights (SAM, AWP), gradients
(FreeLB)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

TWO_OPTIMIZERS = "two gradients per step and two optimizers have no defined order"
"""Why methods with a second pass refuse a second optimizer."""


@contextmanager
def perturbed(weights: list[Tensor], offsets: list[Tensor]) -> Iterator[None]:
    """Add the offsets inside the block; afterwards the weights are restored bit for bit."""
    with torch.no_grad():
        # copies, because (w + v) - v differs from w in floating point
        before = [w.clone() for w in weights]
        torch._foreach_add_(weights, offsets)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, before)


def parameters_with_gradient(optimizer: Optimizer) -> list[Tensor]:
    """The optimizer's parameters that have a gradient."""
    parameters: list[Tensor] = []
    for group in optimizer.param_groups:
        parameters += [p for p in group["params"] if p.grad is not None]
    return parameters


def gradients(weights: list[Tensor]) -> list[Tensor]:
    """The gradients of weights that have one."""
    return [w.grad for w in weights if w.grad is not None]
