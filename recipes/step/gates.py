"""The gradient gate: where tasks branch, the gradient of each can be scaled on its way into what
they share."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class _Gate(torch.autograd.Function):
    """Identity forward; backward times the number that stands in the slot *then*."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gates: "Gates", task: str) -> Tensor:
        ctx.gates, ctx.task = gates, task
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        weight = ctx.gates.weights[ctx.task]
        # a number stays on the host: sent to a device, it would have to be waited for
        return (
            gradient * (weight.to(gradient) if isinstance(weight, Tensor) else weight),
            None,
            None,
        )


def is_gate(node: Any) -> bool:
    """Whether a node of a graph is a gate; it then has `gates` and `task`."""
    return type(node) is _Gate._backward_cls  # type: ignore[attr-defined]


class Gates:
    """One gate a task, between what the tasks share and the task's head.

    With weights w_t set between forward and backward, the backward of Σ_t L_t gives shared
    parameters Σ_t w_t ∇L_t and every head its own gradient ∇L_t. The weights hold for one
    micro-batch: `reset` opens all gates for the next.
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
        """The parameters of the network before the gates, also those that a head has too. Looked up
        once: which module holds which does not change while a network trains, and the search is a
            walk through all modules."""
        if self._outside is None:
            named = network.named_parameters(remove_duplicate=False)
            self._outside = frozenset(p for name, p in named if not name.startswith("heads."))
        return self._outside

    def __call__(self, hidden: Tensor, task: str) -> Tensor:
        if task not in self.weights:  # a head of no task, the embedding: added to the sum as it is
            return hidden
        return _Gate.apply(hidden, self, task)  # type: ignore[no-any-return]
