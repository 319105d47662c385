"""The Gram provider: inner products of the tasks' gradients, [T, T], equal on all ranks.

Nearly every gradient method maps this matrix to weights of the tasks. Gradients come from `torch.autograd.grad`, which
fires no hooks of DDP; the one backward of the step comes afterwards.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.errors import UserError, nearest
from methods.multi_task.branching import Branches, Branching, Given, branches, branching, weighted
from recipes.recipe import Recipe
from recipes.terms import global_sum, world_size

GradSource = Literal["rep", "last_shared", "shared"]
BUCKET = 2**22  # numbers of one task's gradient that are stacked, and sent between ranks, at a time
NOTHING_SHARED_LEARNS = (
    "gradients of tasks meet in layers that they share, and in a frozen backbone none of these learns; leave one out"
)
BIASES_ALONE = "the last shared layer has no weight that learns where only biases do; set its grad_source=shared"
ONE_REPRESENTATION = (
    "gradients of one shared representation or layer do not exist where every task has features of its own; "
    "set its grad_source=shared"
)

Update = Callable[[Tensor], Given]  # of the weights [T]
Gradients = list[tuple[Tensor | None, ...]]  # by task, then by tensor


def task_gradients(losses: Sequence[Tensor], of: Sequence[Tensor]) -> Gradients:
    """∂L_t/∂x of every task and tensor, the graph kept; None where a task does not reach a tensor."""
    return [
        torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True) if loss.requires_grad else (None,) * len(of)
        for loss in losses
    ]


def shared_by_two(gradients: Gradients) -> list[int]:
    """Positions of the tensors that more than one task reaches."""
    return [i for i, column in enumerate(zip(*gradients, strict=True)) if sum(g is not None for g in column) > 1]


def buckets(of: Sequence[Tensor], chosen: Sequence[int]) -> Iterator[list[int]]:
    """Tensors that together have about `BUCKET` numbers."""
    bucket: list[int] = []
    size = 0
    for i in chosen:
        bucket.append(i)
        size += of[i].numel()
        if size >= BUCKET or i == chosen[-1]:
            yield bucket
            bucket, size = [], 0


def stacked(gradients: Gradients, of: Sequence[Tensor], chosen: Sequence[int]) -> Iterator[Tensor]:
    """J in blocks [T, n] of float32, n about `BUCKET`: the whole T × P matrix is never one tensor."""
    for bucket in buckets(of, chosen):
        rows = [
            torch.cat([(torch.zeros_like(of[j]) if row[j] is None else row[j]).flatten().float() for j in bucket])
            for row in gradients
        ]
        yield torch.stack(rows)


def averaged(block: Tensor) -> Tensor:
    """The mean over ranks of a block of J."""
    return block if world_size() == 1 else global_sum(block) / world_size()


def gram_of_parameters(gradients: Gradients, of: Sequence[Tensor]) -> Tensor:
    """Σ_blocks J_b J_bᵀ of gradients that are first averaged over ranks: the mean over ranks of ‖g_t‖² would be biased
    upward by their noise."""
    return gram_of_blocks(stacked(gradients, of, shared_by_two(gradients)))


def gram_of_blocks(blocks: Iterable[Tensor]) -> Tensor:
    return torch.stack([j @ j.T for j in map(averaged, blocks)]).sum(0)


def gram_of_representations(gradients: Gradients, of: Sequence[Tensor]) -> Tensor:
    """Ranks hold different rows of z, so the Gram matrix of the global batch is a sum, (1/R²) Σ_r G_r: T² numbers of
    traffic. The batch is flattened with the features, as MGDA-UB's authors have it."""
    blocks = stacked(gradients, of, range(len(of)))
    local = torch.stack([j @ j.T for j in blocks]).sum(0)
    return global_sum(local) / world_size() ** 2


def parts(flat: Tensor, of: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The next tensors, each with its part of `flat` [n], until that is used up."""
    start = 0
    while start < len(flat):
        tensor = next(of)
        yield tensor, flat[start : start + tensor.numel()]
        start += tensor.numel()


class Jacobian:
    """∂L_t/∂θ of the shared parameters θ, one backward a task from z on, in blocks [T, n] of float32."""

    def __init__(self, found: Branches, of: Sequence[Tensor], keep: bool):
        self.of: list[Tensor] = []
        self.blocks: list[Tensor] = []
        tasks = len(found.by_task)
        last = max(t for t, row in enumerate(found.by_task) if any(g is not None for g in row))
        for task, row in enumerate(found.by_task):
            reached = [(z, g) for z, g in zip(found.z, row, strict=True) if g is not None]
            if not reached:
                continue
            z, by_z = zip(*reached, strict=True)
            taken = torch.autograd.grad(z, of, by_z, retain_graph=keep or task < last, allow_unused=True)
            if not self.blocks:
                self.open(taken, of, tasks)
            # tasks that read the same representations reach the same parameters
            self.fill(task, [gradient for gradient in taken if gradient is not None])

    def open(self, taken: Sequence[Tensor | None], of: Sequence[Tensor], tasks: int) -> None:
        chosen = [i for i, gradient in enumerate(taken) if gradient is not None]
        for bucket in buckets(of, chosen):
            self.of += [of[i] for i in bucket]
            numbers = sum(of[i].numel() for i in bucket)
            self.blocks.append(torch.zeros(tasks, numbers, device=of[bucket[0]].device))

    def fill(self, task: int, row: Iterable[Tensor]) -> None:
        gradients = iter(row)
        for block in self.blocks:
            for gradient, place in parts(block[task], gradients):
                place.view(gradient.shape).copy_(gradient)

    def gram(self) -> Tensor:
        return gram_of_blocks(self.blocks)

    def weighted(self, weights: Tensor) -> Given:
        """Σ_t w_t g_t of this rank."""
        found: Given = []
        parameters = iter(self.of)
        for block in self.blocks:
            for p, update in parts(weights.to(block) @ block, parameters):
                found.append((p, update.view_as(p).to(p.dtype)))
        return found


def scaled(device: torch.device) -> bool:
    """Whether the step's backward is of a loss that is scaled up, without which gradients in fp16 become 0: then those
    that were found before it are good for G, and not for the update."""
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16


class GramProvider:
    """G_ts = ⟨∇L_t, ∇L_s⟩ in float32, by what is differentiated:

    `rep`: the shared representation z: T backwards through heads alone. `last_shared`: the weight of the last shared
    layer, or of the one called `layer`. `shared`: every trained parameter that more than one task reaches: T backwards
    through the whole network.

    Where tasks part at gates alone (see `branching`), one backward through all heads stands for T, and `update` then
    gives every gradient of the step from the weights: what is left of its backward is, for `rep`, that from z on, for
    `shared` nothing. keep: the graph of the losses, where something else will be differentiated through it. through:
    the step's own backward must reach the inputs, so that with `shared` nothing is spared.
    """

    def __init__(self, source: GradSource, layer: str | None = None, keep: bool = True, through: bool = False):
        self.source, self.layer, self.keep, self.through = source, layer, keep, through
        self.update: Update | None = None

    def __call__(self, losses: Sequence[Tensor], representations: Sequence[Tensor], recipe: Recipe) -> Tensor:
        parting = None
        spares = self.source == "rep" or (self.source == "shared" and not self.through)
        if spares and not scaled(losses[0].device):
            parting = branching(losses, representations, list(recipe.tasks), recipe.network)
        # products of gradients in half precision would lose the small ones
        with torch.autocast(losses[0].device.type, enabled=False):
            if parting is not None:
                return self.at_the_branch(parting, losses, representations, recipe)
            return self.task_by_task(losses, representations, recipe)

    def at_the_branch(
        self, parting: Branching, losses: Sequence[Tensor], representations: Sequence[Tensor], recipe: Recipe
    ) -> Tensor:
        found = branches(parting, losses, representations, self.keep)
        if self.source == "rep":
            self.update = lambda weights: [*weighted(found, weights), *found.own]
            return gram_of_representations(found.by_task, found.z)
        behind = set(parting.own)
        of = [p for p in recipe.parameters() if p.requires_grad and p not in behind]
        jacobian = Jacobian(found, of, self.keep)
        self.update = lambda weights: [*jacobian.weighted(weights), *found.own]
        return jacobian.gram()

    def task_by_task(self, losses: Sequence[Tensor], representations: Sequence[Tensor], recipe: Recipe) -> Tensor:
        of = self.differentiated(representations, recipe)
        gradients = task_gradients(losses, of) if of else []
        if not shared_by_two(gradients):
            raise UserError(
                "no trained layer is shared by two tasks, so their gradients cannot meet: unfreeze the backbone, or "
                "leave the weighting of gradients out"
            )
        make = gram_of_representations if self.source == "rep" else gram_of_parameters
        return make(gradients, of)

    def differentiated(self, representations: Sequence[Tensor], recipe: Recipe) -> list[Tensor]:
        if self.source == "rep":
            return list(representations)
        if self.source == "shared":
            return [p for p in recipe.parameters() if p.requires_grad]
        return [last_shared(recipe.network, self.layer)]


def last_shared(network: nn.Module, name: str | None = None) -> Tensor:
    """The last trained weight of two or more dimensions before the heads, or the parameter called `name`. Norms and
    biases say little of a task's pull."""
    own = {n: p for n, p in network.named_parameters() if p.requires_grad and not n.startswith("heads.")}
    if name is not None:
        if name not in own:
            raise UserError(f"layer='{name}': no trained shared parameter of this name; {nearest(name, own)}")
        return own[name]
    weights = [p for p in own.values() if p.ndim >= 2]
    if not weights:
        raise UserError("no trained layer before the heads, and gradients need one: unfreeze some of the backbone")
    return weights[-1]
