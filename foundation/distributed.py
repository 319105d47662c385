"""Numbers and rows across ranks; on one process everything is as it is."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(value: Tensor) -> Tensor:
    """`value` summed over ranks, without gradient; the value itself on one process."""
    value = value.detach().clone()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value


def gather_rows(value: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the global batch; without gradient. Every rank holds
    equally many."""
    if world_size() == 1:
        return value.detach()
    parts = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(parts, value.detach().contiguous())
    return torch.cat(parts)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.rows = len(value)
        return gather_rows(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        # summed, not only cut: another rank's loss may say something else about these rows
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank() * ctx.rows :][: ctx.rows]


def gather_with_gradient(value: Tensor) -> Tensor:
    """Rows of all ranks in the order of the global batch, with gradient to the own ones through
    every rank's loss.

    A loss that relates samples to each other is not a sum over ranks. Every rank gathers the
    embeddings of the whole batch and computes the whole loss: n·n numbers and no further traffic,
    nothing next to a network's cost. Backward sums what the ranks' losses say about a rank's own
    rows, and averaging gradients over ranks divides by their number again. So the loss is exact
    whatever its form, its value is the same on every rank, and parameters in it (proxies) are exact
    too.

    value: [N, …], equally many rows on every rank. The value itself on one process.
    """
    return value if world_size() == 1 else _GatherRows.apply(value)
