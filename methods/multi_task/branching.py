"""One backward through all heads at once, where tasks part at one place.

Where the loss of every task reaches what tasks share through its own gates alone, nothing of one
task's head depends on another's. Then the backward of Σ_t L_t, stopped at the gates, leaves ∂L_t/∂z
at the gates of task t and the gradients of all heads: what T backwards would give. Whether it is so
is read off the graph of the step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from foundation import devices
from methods.multi_task.rows import weighted
from recipes.step.gates import Gates, is_gate

LEAF = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
LIMIT = 1000  # nodes between a loss and its gates; a head is smaller

Given = list[tuple[Tensor, Tensor]]  # a tensor of the step's graph and its gradient


@dataclass
class Branching:
    """tips: of every task, its gates and which representation each leads to. reached: those that
    tasks read. own: trained parameters behind the gates."""

    tips: list[list[tuple[Any, int]]]
    reached: list[int]
    own: list[Tensor]


@dataclass
class Branches:
    """z: the representations that tasks read. by_task[t][i]: ∂L_t/∂z_i, empty where the task reads
    none. own: the gradients of what lies behind the gates."""

    z: list[Tensor]
    by_task: list[list[Tensor]]
    own: Given

    def weighted(self, weights: Tensor) -> Given:
        """Σ_t w_t ∂L_t/∂z_i of every representation; can be asked once."""
        return [
            (z, total.to(z.dtype))
            for z, total in zip(self.z, weighted(self.by_task, weights), strict=True)
        ]


def branching(
    losses: Sequence[Tensor],
    representations: Sequence[Tensor],
    tasks: Sequence[str],
    network: nn.Module,
) -> Branching | None:
    """Where the tasks part; None where a loss reaches what is shared in any other way than through
    its own gates, tasks read different representations, or fewer than two read any."""
    gates: Gates | None = getattr(network, "gates", None)
    if gates is None or any(z.grad_fn is None for z in representations):
        return None
    origins = {(z.grad_fn, z.output_nr): i for i, z in enumerate(representations)}
    inside = {node for node, _ in origins}
    tips, own = [], dict[Tensor, None]()
    for task, loss in zip(tasks, losses, strict=True):
        found = tips_of(loss, gates, task, origins, inside, own)
        if found is None:
            return None
        tips.append(found)
    reached = [{i for _, i in found} for found in tips if found]
    if (
        len(reached) < 2
        or any(some != reached[0] for some in reached)
        or not gates.outside(network).isdisjoint(own)
    ):
        return None
    return Branching(tips, sorted(reached[0]), list(own))


def tips_of(
    loss: Tensor,
    gates: Gates,
    task: str,
    origins: dict[tuple[Any, int], int],
    inside: set[Any],
    own: dict[Tensor, None],
) -> list[tuple[Any, int]] | None:
    """The gates that a loss reaches, and into `own` the parameters on the way; None where it
    reaches anything else."""
    seen, found = set(), []
    waiting: list[Any] = [loss.grad_fn] if loss.grad_fn is not None else []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in inside or len(seen) > LIMIT:
            return None
        following = node.next_functions
        if is_gate(node):
            origin = following[0]
            if node.gates is not gates or node.task != task or origin not in origins:
                return None
            found.append((node, origins[origin]))
        elif following:
            waiting += [node for node, _ in following if node is not None]
        elif type(node) is LEAF:
            own[node.variable] = None
    return found


def asks_for_itself(x: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Whether something that is no parameter asks for a gradient at an input: a perturbation that
    learns from the backward of the step, which must then pass through the whole network."""
    known, waiting, seen = set(parameters), [x.grad_fn], set()
    if x.grad_fn is None:
        return x.requires_grad and x not in known
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad" and node.variable not in known:
            return True
        waiting.extend(following for following, _ in node.next_functions)
    return False


def branches(
    parting: Branching, losses: Sequence[Tensor], z: Sequence[Tensor], keep: bool
) -> Branches:
    """The backward through all heads. keep: the graph behind the gates, for whoever else needs
    it."""
    edges = [GradientEdge(node, 0) for found in parting.tips for node, _ in found]
    outputs = [loss for loss, found in zip(losses, parting.tips, strict=True) if found]
    taken = torch.autograd.grad(
        outputs, [*edges, *parting.own], retain_graph=keep, allow_unused=True
    )
    at_gates = iter(taken[: len(edges)])
    by_task = []
    for found in parting.tips:
        row: dict[int, Tensor] = {}
        for _, i in found:
            gradient = next(at_gates)
            gradient = torch.zeros_like(z[i]) if gradient is None else gradient.contiguous()
            row[i] = row[i] + gradient if i in row else gradient
        by_task.append([row[i] for i in parting.reached] if row else [])
    own = [(p, g) for p, g in zip(parting.own, taken[len(edges) :], strict=True) if g is not None]
    return Branches([z[i] for i in parting.reached], by_task, own)


def times(gradients: Sequence[Tensor], slope: Tensor) -> Sequence[Tensor]:
    """Each gradient times a number of no dimensions; by one, where that can be seen, the gradients
    themselves."""
    if devices.readable(slope):
        return gradients if float(slope) == 1.0 else torch._foreach_mul(gradients, float(slope))
    if any(gradient.dtype != slope.dtype for gradient in gradients):
        return [gradient * slope.to(gradient) for gradient in gradients]
    return torch._foreach_mul(gradients, slope)


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *of: Tensor) -> Tensor:
        # saved, so that they are let go with the graph: autograd then takes each as it is, and
        # copies none
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *times(ctx.saved_tensors, slope)


def given(value: Tensor, gradients: Given) -> Tensor:
    """A scalar whose backward hands these gradients on: to parameters, or to whatever comes before
    a representation."""
    of, found = zip(*gradients, strict=True)
    return _Given.apply(value.detach(), list(found), *of)  # type: ignore[no-any-return]
