"""Holding a function of ours against one of a package: values and gradients, on the same
numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Function = Callable[..., Tensor]


def installed(module: str, package: str = "") -> Any:
    """A module of a package; where that is not installed, the test is skipped and says so."""
    package = package or module.partition(".")[0].replace("_", "-")
    return pytest.importorskip(
        module, reason=f"the oracle {package} is not installed", exc_type=ImportError
    )


def value_and_gradients(function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The sum of a function's values, and its gradient by every input."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves).sum()
    return value.detach(), *torch.autograd.grad(value, leaves)


def same(ours: Function, theirs: Function, *inputs: Tensor, tolerance: float = 1e-9) -> None:
    """Equal values and equal gradients, which are not all zero."""
    mine, yours = (value_and_gradients(function, *inputs) for function in (ours, theirs))
    for a, b in zip(mine, yours, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
    assert all(bool((gradient != 0).any()) for gradient in mine[1:])


def in_double(*networks: nn.Module) -> None:
    """Compute in double precision from now on: in single precision processors round the sums of a
    network differently, by more than a tight comparison allows."""
    for network in networks:
        network.double()


def same_gradients(
    ours: Tensor,
    mine: Sequence[Tensor],
    theirs: Tensor,
    yours: Sequence[Tensor],
    tolerance: float = 1e-6,
) -> None:
    """Two outputs are equal, and so are the gradients of their weighted sum by parameters in equal
    order, which may differ in shape."""
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    weight = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    pairs = [
        torch.autograd.grad((out * weight).sum(), list(by))
        for out, by in ((ours, mine), (theirs, yours))
    ]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b.view_as(a), atol=10 * tolerance, rtol=10 * tolerance)
        assert bool((a != 0).any())
