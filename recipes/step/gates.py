"""The gradient gate: where tasks branch, the gradient of each task can be scaled before it enters
the shared layers."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class _Gate(torch.autograd.Function):
    """Identity in the forward; in the backward a product with the weight set *at that time*."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gates: "Gates", task: str) -> Tensor:
        ctx.gates = gates
        ctx.task = task
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        weight = ctx.gates.weights[ctx.task]
        # a float stays on the host: the copy to a device would be a sync
        if isinstance(weight, Tensor):
            weight = weight.to(gradient)
        return gradient * weight, None, None


def is_gate(node: Any) -> bool:
    """Whether a node of an autograd graph is a gate; it then has `gates` and `task`."""
    return type(node) is _Gate._backward_cls  # type: ignore[attr-defined]


class Gates:
    """One gate per task, between the shared layers and the task's head.

    With weights w_t set between forward and backward, the backward of Σ_t L_t gives shared
    parameters Σ_t w_t ∇L_t and every head its own gradient ∇L_t. The weights are for one
    micro-batch: `reset` sets them to 1 for the next.
    """

    def __init__(self, tasks: Iterable[str]):
        self.tasks = tuple(tasks)
        self._outside: frozenset[Tensor] | None = None
        self.weights: dict[str, Tensor | float] = {}
        self.reset()

    def reset(self) -> None:
        self.weights = dict.fromkeys(self.tasks, 1.0)

    def set(self, weights: Tensor) -> None:
        """weights: [T], in the order of the tasks, without gradient."""
        self.weights = dict(zip(self.tasks, weights.detach().unbind(), strict=True))

    def outside(self, network: nn.Module) -> frozenset[Tensor]:
        """The parameters of the network before the gates, those shared with a head included."""
        # cached: finding them visits all modules, and they do not change during training
        if self._outside is None:
            named = network.named_parameters(remove_duplicate=False)
            self._outside = frozenset(p for name, p in named if not name.startswith("heads."))
        return self._outside

    def __call__(self, hidden: Tensor, task: str) -> Tensor:
        if task not in self.weights:  # the embedding head belongs to no task: weight 1
            return hidden
        return _Gate.apply(hidden, self, task)  # type: ignore[no-any-return]
