"""The Gram provider: inner products of the tasks' gradients, [T, T], equal on all ranks.

Nearly every gradient method maps this matrix to weights of the tasks. Gradients come from
`torch.autograd.grad`, which fires no hooks of DDP; the one backward of the step comes afterwards.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from foundation.distributed import global_sum, world_size
from foundation.errors import UserError, nearest
from methods.multi_task.branching import (
    Precomputed,
    SplitGradients,
    TrunkSplit,
    backward_to_split,
    find_trunk_split,
)
from methods.multi_task.rows import Row, averaged, blocks, dense, gram, weighted
from recipes.contract import Context

GradSource = Literal["rep", "last_shared", "shared"]
NOTHING_SHARED_LEARNS = (
    "gradients of tasks meet in layers that they share, and in a frozen backbone none of these "
    "learns; leave one out"
)
NO_LAYER_SHARED = (
    "gradients of tasks meet in layers that they share, and split_stage=0 gives every task layers "
    "of its own; raise it, or leave one out"
)
BIASES_ALONE = (
    "the last shared layer has no weight that learns where only biases do; set its "
    "grad_source=shared"
)
ONE_REPRESENTATION = (
    "gradients of one shared representation or layer do not exist where every task has features of "
    "its own; "
    "set its grad_source=shared"
)

Update = Callable[[Tensor], Precomputed]  # of the weights [T]; can be called once
Gradients = list[list[Tensor | None]]  # by task, then by tensor


def task_gradients(losses: Sequence[Tensor], of: Sequence[Tensor]) -> Gradients:
    """∂L_t/∂x of every task and tensor, the graph kept; None where a task does not reach a
    tensor."""
    gradients: Gradients = []
    for loss in losses:
        if loss.requires_grad:
            row = torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)
            gradients.append(dense(row))
        else:
            gradients.append([None] * len(of))
    return gradients


def shared_by_two(gradients: Gradients) -> list[int]:
    """Positions of the tensors that more than one task reaches."""
    positions = []
    for i, column in enumerate(zip(*gradients, strict=True)):
        if sum(gradient is not None for gradient in column) > 1:
            positions.append(i)
    return positions


def gram_of_parameters(gradients: Gradients, of: Sequence[Tensor]) -> Tensor:
    """G [T, T] of gradients that are first averaged over ranks: the mean over ranks of ‖g_t‖² would
    be biased upward by their noise."""
    shared = shared_by_two(gradients)
    rows = [[row[i] for i in shared] for row in gradients]
    return gram(map(averaged, blocks(rows, [of[i] for i in shared])))


def gram_of_representations(gradients: Sequence[Row], of: Sequence[Tensor]) -> Tensor:
    """G [T, T] of gradients at z, the batch flattened with the features, as MGDA-UB's authors have
    it. Ranks hold different rows of z, so G of the global batch is (1/R²) Σ_r G_r: T² numbers of
    traffic."""
    local = gram(blocks(gradients, of))
    return local if world_size() == 1 else global_sum(local) / world_size() ** 2


class Jacobian:
    """∂L_t/∂θ of the shared parameters θ, from ∂L_t/∂z: one backward a task through the trunk.

    The gradients of a task at z are let go when it is done, and with the last one the graph, unless
    somebody keeps it.
    """

    def __init__(self, split: SplitGradients, parameters: Sequence[Tensor], keep: bool):
        self.rows: list[list[Tensor]] = [[] for _ in split.by_task]
        self.parameters: list[Tensor] = []
        last = max(t for t, by_z in enumerate(split.by_task) if by_z)
        for task, by_z in enumerate(split.by_task):
            if not by_z:
                continue
            retain = keep or task < last
            gradients = torch.autograd.grad(
                split.z, parameters, by_z, retain_graph=retain, allow_unused=True
            )
            split.by_task[task] = by_z = []
            reached = [i for i, gradient in enumerate(gradients) if gradient is not None]
            # the same for every task, since all read the same representations
            self.parameters = [parameters[i] for i in reached]
            self.rows[task] = [gradients[i].contiguous() for i in reached]

    def gram(self) -> Tensor:
        return gram(map(averaged, blocks(self.rows, self.parameters)))

    def weighted(self, weights: Tensor) -> Precomputed:
        """Σ_t w_t g_t of this rank. Can be called once: the rows are let go."""
        totals = weighted(self.rows, weights)
        return [(p, total.to(p.dtype)) for p, total in zip(self.parameters, totals, strict=True)]


def uses_loss_scale(device: torch.device) -> bool:
    """Whether the step's backward is of a loss that is scaled up, without which gradients in fp16
    become 0: then those that were found before it are good for G, and not for the update."""
    return (
        torch.is_autocast_enabled(device.type)
        and torch.get_autocast_dtype(device.type) == torch.float16
    )


class GramProvider:
    """G_ts = ⟨∇L_t, ∇L_s⟩ in float32, by what is differentiated:

    `rep`: the shared representation z: T backwards through heads alone. `last_shared`: the weight
    of the last shared layer, or of the one called `layer`. `shared`: every trained parameter that
    more than one task reaches: T backwards through the whole network.

    Where the trunk splits at gates alone (see `branching`), one backward through all heads replaces
    T, and `update` then gives every gradient of the step from the weights: what is left of its
    backward is, for `rep`, that from z on, for `shared` nothing. keep: the graph of the losses,
    where something else will be differentiated through it. through: the step's own backward must
    reach the inputs, so that with `shared` nothing is spared.
    """

    def __init__(
        self, source: GradSource, layer: str | None = None, keep: bool = True, through: bool = False
    ):
        self.source = source
        self.layer = layer
        self.keep = keep
        self.through = through
        self.update: Update | None = None

    def __call__(
        self, losses: Sequence[Tensor], representations: Sequence[Tensor], context: Context
    ) -> Tensor:
        device = losses[0].device
        split = None
        spares = self.source == "rep" or (self.source == "shared" and not self.through)
        if spares and not uses_loss_scale(device):
            tasks = list(context.tasks)
            split = find_trunk_split(losses, representations, tasks, context.network)
        # products of gradients in half precision would lose the small ones
        with torch.autocast(device.type, enabled=False):
            if split is not None:
                return self.at_split(split, losses, representations, context)
            return self.task_by_task(losses, representations, context)

    def at_split(
        self,
        split: TrunkSplit,
        losses: Sequence[Tensor],
        representations: Sequence[Tensor],
        context: Context,
    ) -> Tensor:
        """G from one backward through all heads; sets `update`."""
        gradients = backward_to_split(split, losses, representations, self.keep)
        if self.source == "rep":
            self.update = lambda weights: [*gradients.weighted(weights), *gradients.heads]
            return gram_of_representations(gradients.by_task, gradients.z)
        of_heads = set(split.head_parameters)
        shared = [p for p in context.parameters() if p.requires_grad and p not in of_heads]
        jacobian = Jacobian(gradients, shared, self.keep)
        self.update = lambda weights: [*jacobian.weighted(weights), *gradients.heads]
        return jacobian.gram()

    def task_by_task(
        self, losses: Sequence[Tensor], representations: Sequence[Tensor], context: Context
    ) -> Tensor:
        """G from one backward a task."""
        of = self.differentiated(representations, context)
        gradients = task_gradients(losses, of) if of else []
        if not shared_by_two(gradients):
            raise UserError(
                "no trained layer is shared by two tasks, so they have no common gradient: "
                "unfreeze the backbone, or leave the weighting of gradients out"
            )
        make = gram_of_representations if self.source == "rep" else gram_of_parameters
        return make(gradients, of)

    def differentiated(self, representations: Sequence[Tensor], context: Context) -> list[Tensor]:
        if self.source == "rep":
            return list(representations)
        if self.source == "shared":
            return [p for p in context.parameters() if p.requires_grad]
        return [last_shared(context.network, self.layer)]


def gate_parameters(network: nn.Module) -> set[str]:
    """Names of the parameters that decide how much of a change passes, of which modules give a
    list, `gate_parameters`: where the change is near zero, so is their gradient."""
    return {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        for name in getattr(module, "gate_parameters", ())
    }


def last_shared(network: nn.Module, name: str | None = None) -> Tensor:
    """The last trained weight of two or more dimensions before the heads, or the parameter called
    `name`. Norms, biases and gates say little of a task's pull."""
    shared: dict[str, Tensor] = {}
    for parameter_name, p in network.named_parameters():
        if p.requires_grad and not parameter_name.startswith("heads."):
            shared[parameter_name] = p
    if name is not None:
        if name not in shared:
            raise UserError(
                f"layer='{name}': no trained shared parameter of this name; {nearest(name, shared)}"
            )
        return shared[name]
    gates = gate_parameters(network)
    weights = [p for name, p in shared.items() if p.ndim >= 2 and name not in gates]
    if not weights:
        raise UserError(
            "no trained layer before the heads, and gradients need one: unfreeze some of the "
            "backbone"
        )
    return weights[-1]
