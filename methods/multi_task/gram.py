"""The Gram provider: inner products of the tasks' gradients, [T, T], equal on all ranks.

Nearly every gradient method maps this matrix to weights of the tasks. Gradients come from `torch.autograd.grad`, which
fires no hooks of DDP; the one backward of the step comes afterwards.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.errors import UserError, nearest
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


def stacked(gradients: Gradients, of: Sequence[Tensor], chosen: Sequence[int]) -> Iterator[Tensor]:
    """J in blocks [T, n] of float32, n about `BUCKET`: the whole T × P matrix is never one tensor."""
    bucket: list[int] = []
    size = 0
    for i in chosen:
        bucket.append(i)
        size += of[i].numel()
        if size >= BUCKET or i == chosen[-1]:
            rows = [
                torch.cat([(torch.zeros_like(of[j]) if row[j] is None else row[j]).flatten().float() for j in bucket])
                for row in gradients
            ]
            yield torch.stack(rows)
            bucket, size = [], 0


def gram_of_parameters(gradients: Gradients, of: Sequence[Tensor]) -> Tensor:
    """Σ_blocks J_b J_bᵀ of gradients that are first averaged over ranks: the mean over ranks of ‖g_t‖² would be biased
    upward by their noise."""
    blocks = stacked(gradients, of, shared_by_two(gradients))
    return torch.stack([j @ j.T for j in (global_sum(block) / world_size() for block in blocks)]).sum(0)


def gram_of_representations(gradients: Gradients, of: Sequence[Tensor]) -> Tensor:
    """Ranks hold different rows of z, so the Gram matrix of the global batch is a sum, (1/R²) Σ_r G_r: T² numbers of
    traffic. The batch is flattened with the features, as MGDA-UB's authors have it."""
    blocks = stacked(gradients, of, range(len(of)))
    local = torch.stack([j @ j.T for j in blocks]).sum(0)
    return global_sum(local) / world_size() ** 2


class GramProvider:
    """G_ts = ⟨∇L_t, ∇L_s⟩ in float32, by what is differentiated:

    `rep`: the shared representation z: T backwards through heads alone. `last_shared`: the weight of the last shared
    layer, or of the one called `layer`. `shared`: every trained parameter that more than one task reaches: T backwards
    through the whole network; the update takes one more, so that no T × P gradients are kept for it.
    """

    def __init__(self, source: GradSource, layer: str | None = None):
        self.source, self.layer = source, layer

    def __call__(self, losses: Sequence[Tensor], representations: Sequence[Tensor], recipe: Recipe) -> Tensor:
        of = self.differentiated(representations, recipe)
        gradients = task_gradients(losses, of) if of else []
        if not shared_by_two(gradients):
            raise UserError(
                "no trained layer is shared by two tasks, so their gradients cannot meet: unfreeze the backbone, or "
                "leave the weighting of gradients out"
            )
        # products of gradients in half precision would lose the small ones
        with torch.autocast(losses[0].device.type, enabled=False):
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
