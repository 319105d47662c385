"""One backward through all heads at once, where the trunk splits into tasks at gates alone.

                                  ┌─ gate ── head 1 ── L_1
    inputs ── trunk ── z (one or  ├─ gate ── head 2 ── L_2       gates: the branch points
              more)               └─ gate ── head 3 ── L_3

Where the loss of every task reaches z through its own gates alone, nothing of one task's head
depends on another's. Then the backward of Σ_t L_t, stopped at the gates, leaves ∂L_t/∂z at the
gates of task t and the gradients of all heads: what T backwards would give. Whether it is so is
read off the autograd graph of the step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from foundation import devices
from methods.multi_task.rows import weighted
from recipes.step.gates import Gates, is_gate

LEAF = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
LIMIT = 1000  # nodes between a loss and its gates; a head is smaller

BranchPoint = tuple[Any, int]  # a gate's node of the graph, and which z it leads to
Precomputed = list[tuple[Tensor, Tensor]]  # a tensor of the step's graph and its gradient


@dataclass
class TrunkSplit:
    """branch_points: by task. read: which z the tasks read, in order. head_parameters: what is
    trained behind the gates."""

    branch_points: list[list[BranchPoint]]
    read: list[int]
    head_parameters: list[Tensor]


@dataclass
class SplitGradients:
    """z: the representations that tasks read. by_task[t][i]: ∂L_t/∂z_i, empty where the task reads
    none. heads: the gradients of the modules behind the gates."""

    z: list[Tensor]
    by_task: list[list[Tensor]]
    heads: Precomputed

    def weighted(self, weights: Tensor) -> Precomputed:
        """Σ_t w_t ∂L_t/∂z_i of every representation. Can be called once: by_task is let go."""
        totals = weighted(self.by_task, weights)
        return [(z, total.to(z.dtype)) for z, total in zip(self.z, totals, strict=True)]


# -- reading the graph -----------------------------------------------------------------------------
def find_trunk_split(
    losses: Sequence[Tensor],
    representations: Sequence[Tensor],
    tasks: Sequence[str],
    network: nn.Module,
) -> TrunkSplit | None:
    """Where the trunk splits into tasks; None where a loss reaches what is shared in any other way
    than through its own gates, tasks read different representations, or fewer than two read any."""
    gates: Gates | None = getattr(network, "gates", None)
    if gates is None or any(z.grad_fn is None for z in representations):
        return None
    search = _Search(gates, {(z.grad_fn, z.output_nr): i for i, z in enumerate(representations)})
    branch_points = []
    for task, loss in zip(tasks, losses, strict=True):
        of_task = search.branch_points(loss, task)
        if of_task is None:
            return None
        branch_points.append(of_task)
    read_by_tasks = []
    for of_task in branch_points:
        if of_task:
            read_by_tasks.append({i for _, i in of_task})
    if len(read_by_tasks) < 2 or any(read != read_by_tasks[0] for read in read_by_tasks):
        return None
    # a head that uses a parameter of the trunk: its gradient would lack what comes through z
    if not gates.outside(network).isdisjoint(search.head_parameters):
        return None
    return TrunkSplit(branch_points, sorted(read_by_tasks[0]), list(search.head_parameters))


@dataclass
class _Search:
    """Walks from a loss back to the gates. origins: which representation an output of a node is.
    head_parameters: those on the way, in the order of their discovery."""

    gates: Gates
    origins: dict[tuple[Any, int], int]
    head_parameters: dict[Tensor, None] = field(default_factory=dict)

    def branch_points(self, loss: Tensor, task: str) -> list[BranchPoint] | None:
        """The gates that the loss of a task reaches; None where it reaches a representation past
        them, or another task's gate."""
        trunk = {node for node, _ in self.origins}
        points: list[BranchPoint] = []
        seen = set()
        waiting: list[Any] = [loss.grad_fn] if loss.grad_fn is not None else []
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in trunk or len(seen) > LIMIT:
                return None
            following = node.next_functions
            if is_gate(node):
                origin = following[0]
                if node.gates is not self.gates or node.task != task or origin not in self.origins:
                    return None
                points.append((node, self.origins[origin]))
            elif following:
                waiting += [node for node, _ in following if node is not None]
            elif type(node) is LEAF:
                self.head_parameters[node.variable] = None
        return points


def asks_for_itself(x: Tensor, parameters: Iterable[Tensor]) -> bool:
    """Whether something that is no parameter needs a gradient at an input: a perturbation that
    learns from the backward of the step, which must then pass through the whole network."""
    known = set(parameters)
    if x.grad_fn is None:
        return x.requires_grad and x not in known
    waiting: list[Any] = [x.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "AccumulateGrad" and node.variable not in known:
            return True
        waiting.extend(following for following, _ in node.next_functions)
    return False


# -- the backward through all heads ----------------------------------------------------------------
def backward_to_split(
    split: TrunkSplit, losses: Sequence[Tensor], z: Sequence[Tensor], keep: bool
) -> SplitGradients:
    """∂L_t/∂z of all tasks and the gradients of all heads, from one backward. keep: the graph
    behind the gates, for whoever else differentiates through it."""
    # an edge into a gate, not z itself: at z autograd would add the tasks up
    edges = [GradientEdge(node, 0) for points in split.branch_points for node, _ in points]
    outputs = [loss for loss, points in zip(losses, split.branch_points, strict=True) if points]
    # torch allows a mixture, its annotation does not
    inputs: list[Any] = [*edges, *split.head_parameters]
    gradients = torch.autograd.grad(outputs, inputs, retain_graph=keep, allow_unused=True)
    at_gates = iter(gradients[: len(edges)])
    by_task = []
    for points in split.branch_points:
        of_task: dict[int, Tensor] = {}
        for _, i in points:
            gradient = next(at_gates)
            gradient = torch.zeros_like(z[i]) if gradient is None else gradient.contiguous()
            # a task may read the same z at several gates
            of_task[i] = of_task[i] + gradient if i in of_task else gradient
        by_task.append([of_task[i] for i in split.read] if of_task else [])
    of_heads = zip(split.head_parameters, gradients[len(edges) :], strict=True)
    heads = [(p, gradient) for p, gradient in of_heads if gradient is not None]
    return SplitGradients([z[i] for i in split.read], by_task, heads)


# -- handing gradients on --------------------------------------------------------------------------
Tensors = list[Tensor] | tuple[Tensor, ...]


def scaled_by(gradients: Tensors, factor: Tensor) -> Tensors:
    """factor · g for each gradient, factor: a scalar tensor; the gradients themselves where it is
    seen without a wait to be one."""
    if devices.readable(factor):
        number = float(factor)
        return gradients if number == 1.0 else torch._foreach_mul(gradients, number)
    # one call for all of them, which multiplies only what has the factor's dtype
    if any(gradient.dtype != factor.dtype for gradient in gradients):
        return [gradient * factor.to(gradient) for gradient in gradients]
    return torch._foreach_mul(gradients, factor)


class _Precomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *tensors: Tensor) -> Tensor:
        # saved, so that they are let go with the graph: autograd then takes each as it is, and
        # copies none
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *scaled_by(ctx.saved_tensors, grad_output)


def with_gradients(value: Tensor, precomputed: Precomputed) -> Tensor:
    """A scalar of this value whose backward hands the gradients on: to parameters, or to whatever
    comes before a representation."""
    tensors, gradients = zip(*precomputed, strict=True)
    return _Precomputed.apply(value.detach(), list(gradients), *tensors)  # type: ignore[no-any-return]
