"""A module called with other tensors in place of its parameters, which then take no gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foundation.errors import nearest

Tensors = Mapping[str, Tensor]


def detached(module: nn.Module, values: Tensors | None = None) -> Callable[..., Any]:
    """The module as a function: a gradient passes through it to its arguments and to `values`, but
    not to its parameters.

    Two players with one optimizer have disjoint parameters: the loss of one is computed through
    `detached(…)` of the other.

    values: by name of parameter, in place of the parameters; those left out are the module's own,
        detached; None: all of them.
    """
    tensors = {name: parameter.detach() for name, parameter in module.named_parameters()}
    given = dict(values or {})
    unknown = sorted(given.keys() - tensors.keys())
    if unknown:
        raise KeyError(f"no parameter is named '{unknown[0]}'; {nearest(unknown[0], tensors)}")
    tensors |= given

    def call(*args: Any, **kwargs: Any) -> Any:
        return functional_call(module, tensors, args, kwargs)

    return call


class OfView(nn.Module):
    """A network from the view on: `embed` and forward in one call, for `detached`, which replaces
    the parameters of both."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, view: Any) -> Any:
        return self.network(self.network.embed(view))  # type: ignore[operator]


def gradient_step(
    loss: Callable[[Tensors], Tensor], values: Tensors, step_size: float
) -> dict[str, Tensor]:
    """θ - η ∇ loss(θ), with a graph to whatever else the loss depends on."""
    leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
    gradients = torch.autograd.grad(
        loss(leaves), list(leaves.values()), create_graph=True, allow_unused=True
    )
    moved = dict(values)
    for name, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            moved[name] = values[name].detach() - step_size * gradient
    return moved
