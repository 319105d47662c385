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
from methods.multi_task.branching import Branches, Branching, Given, branches, branching
from methods.multi_task.rows import Row, averaged, blocks, dense, gram, weighted
from recipes.contract import Context

GradSource = Literal["rep", "last_shared", "shared"]
NOTHING_SHARED_LEARNS = (
    "gradients of tasks meet in layers that they share, and in a frozen backbone none of these "
    "learns; leave one out"
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

Update = Callable[[Tensor], Given]  # of the weights [T]; can be asked once
Gradients = list[list[Tensor | None]]  # by task, then by tensor


def task_gradients(losses: Sequence[Tensor], of: Sequence[Tensor]) -> Gradients:
    """∂L_t/∂x of every task and tensor, the graph kept; None where a task does not reach a
    tensor."""
    return [
        dense(torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True))
        if loss.requires_grad
        else [None] * len(of)
        for loss in losses
    ]


def shared_by_two(gradients: Gradients) -> list[int]:
    """Positions of the tensors that more than one task reaches."""
    return [
        i
        for i, column in enumerate(zip(*gradients, strict=True))
        if sum(g is not None for g in column) > 1
    ]


def gram_of_parameters(gradients: Gradients, of: Sequence[Tensor]) -> Tensor:
    """G of gradients that are first averaged over ranks: the mean over ranks of ‖g_t‖² would be
    biased upward by their noise."""
    chosen = shared_by_two(gradients)
    return gram(
        map(
            averaged,
            blocks([[row[i] for i in chosen] for row in gradients], [of[i] for i in chosen]),
        )
    )


def gram_of_representations(gradients: Sequence[Row], of: Sequence[Tensor]) -> Tensor:
    """Ranks hold different rows of z, so the Gram matrix of the global batch is a sum, (1/R²) Σ_r
    G_r: T² numbers of traffic. The batch is flattened with the features, as MGDA-UB's authors have
    it."""
    local = gram(blocks(gradients, of))
    return local if world_size() == 1 else global_sum(local) / world_size() ** 2


class Jacobian:
    """∂L_t/∂θ of the shared parameters θ, one backward a task from z on; that of a task at z is let
    go when it is done, and with the last one the graph, unless somebody keeps it."""

    def __init__(self, found: Branches, of: Sequence[Tensor], keep: bool):
        self.rows: list[list[Tensor]] = [[] for _ in found.by_task]
        self.of: list[Tensor] = []
        last = max(t for t, row in enumerate(found.by_task) if row)
        for task, by_z in enumerate(found.by_task):
            if not by_z:
                continue
            taken = torch.autograd.grad(
                found.z, of, by_z, retain_graph=keep or task < last, allow_unused=True
            )
            found.by_task[task] = by_z = []
            # tasks that read the same representations reach the same parameters
            self.of = [p for p, gradient in zip(of, taken, strict=True) if gradient is not None]
            self.rows[task] = [gradient.contiguous() for gradient in taken if gradient is not None]

    def gram(self) -> Tensor:
        return gram(map(averaged, blocks(self.rows, self.of)))

    def weighted(self, weights: Tensor) -> Given:
        """Σ_t w_t g_t of this rank."""
        return [
            (p, update.to(p.dtype))
            for p, update in zip(self.of, weighted(self.rows, weights), strict=True)
        ]


def scaled(device: torch.device) -> bool:
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

    Where tasks part at gates alone (see `branching`), one backward through all heads stands for T,
    and `update` then gives every gradient of the step from the weights: what is left of its
    backward is, for `rep`, that from z on, for `shared` nothing. keep: the graph of the losses,
    where something else will be differentiated through it. through: the step's own backward must
    reach the inputs, so that with `shared` nothing is spared.
    """

    def __init__(
        self, source: GradSource, layer: str | None = None, keep: bool = True, through: bool = False
    ):
        self.source, self.layer, self.keep, self.through = source, layer, keep, through
        self.update: Update | None = None

    def __call__(
        self, losses: Sequence[Tensor], representations: Sequence[Tensor], context: Context
    ) -> Tensor:
        parting = None
        spares = self.source == "rep" or (self.source == "shared" and not self.through)
        if spares and not scaled(losses[0].device):
            parting = branching(losses, representations, list(context.tasks), context.network)
        # products of gradients in half precision would lose the small ones
        with torch.autocast(losses[0].device.type, enabled=False):
            if parting is not None:
                return self.at_the_branch(parting, losses, representations, context)
            return self.task_by_task(losses, representations, context)

    def at_the_branch(
        self,
        parting: Branching,
        losses: Sequence[Tensor],
        representations: Sequence[Tensor],
        context: Context,
    ) -> Tensor:
        found = branches(parting, losses, representations, self.keep)
        if self.source == "rep":
            self.update = lambda weights: [*found.weighted(weights), *found.own]
            return gram_of_representations(found.by_task, found.z)
        behind = set(parting.own)
        of = [p for p in context.parameters() if p.requires_grad and p not in behind]
        jacobian = Jacobian(found, of, self.keep)
        self.update = lambda weights: [*jacobian.weighted(weights), *found.own]
        return jacobian.gram()

    def task_by_task(
        self, losses: Sequence[Tensor], representations: Sequence[Tensor], context: Context
    ) -> Tensor:
        of = self.differentiated(representations, context)
        gradients = task_gradients(losses, of) if of else []
        if not shared_by_two(gradients):
            raise UserError(
                "no trained layer is shared by two tasks, so their gradients cannot meet: unfreeze "
                "the backbone, or "
                "leave the weighting of gradients out"
            )
        make = gram_of_representations if self.source == "rep" else gram_of_parameters
        return make(gradients, of)

    def differentiated(self, representations: Sequence[Tensor], context: Context) -> list[Tensor]:
        if self.source == "rep":
            return list(representations)
        if self.source == "shared":
            return [p for p in context.parameters() if p.requires_grad]
        return [last_shared(context.network, self.layer)]


def last_shared(network: nn.Module, name: str | None = None) -> Tensor:
    """The last trained weight of two or more dimensions before the heads, or the parameter called
    `name`. Norms and biases say little of a task's pull."""
    own = {
        n: p
        for n, p in network.named_parameters()
        if p.requires_grad and not n.startswith("heads.")
    }
    if name is not None:
        if name not in own:
            raise UserError(
                f"layer='{name}': no trained shared parameter of this name; {nearest(name, own)}"
            )
        return own[name]
    weights = [p for p in own.values() if p.ndim >= 2]
    if not weights:
        raise UserError(
            "no trained layer before the heads, and gradients need one: unfreeze some of the "
            "backbone"
        )
    return weights[-1]
