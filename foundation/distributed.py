"""Sums and gathered rows across ranks; with one process values are returned unchanged."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

GATHERED = 2**26  # bytes of a table that each rank sends at once


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(value: Tensor) -> Tensor:
    """`value` summed over ranks, without gradient; the value itself on one process."""
    value = value.detach().clone()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value


def mean_over_ranks(values: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mean of each value over ranks, in one transfer and without gradient. None, on all ranks,
    stays."""
    if world_size() == 1:
        return list(values)
    known = [value for value in values if value is not None]
    flat = global_sum(torch.cat([value.flatten() for value in known])) / world_size()
    means = iter(flat.split([value.numel() for value in known]))
    return [None if value is None else next(means).view_as(value) for value in values]


def gather_rows(value: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the global batch; without gradient. All ranks have the
    same number of rows."""
    if world_size() == 1:
        return value.detach()
    parts = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(parts, value.detach().contiguous())
    return torch.cat(parts)


def gather_uneven(value: Tensor) -> Tensor:
    """Rows of all ranks, whose numbers of rows may differ; without gradient."""
    if world_size() == 1:
        return value.detach()
    sizes = [torch.zeros(1, dtype=torch.int64, device=value.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(value)], device=value.device))
    lengths = [int(size) for size in sizes]
    padded = value.new_zeros(max(lengths), *value.shape[1:])
    padded[: len(value)] = value
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def names_of_any_rank(names: list[str]) -> list[str]:
    """The names on a rank that has any, equal on all ranks: of a few samples a rank may have
    none."""
    if world_size() == 1:
        return names
    of_ranks: list[list[str]] = [[] for _ in range(world_size())]
    dist.all_gather_object(of_ranks, names)
    return max(of_ranks, key=len)


def gathering_device() -> torch.device:
    """Where ranks exchange tensors: for one that has none of its own to say so."""
    on_gpus = world_size() > 1 and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpus else torch.device("cpu")


def share_of(size: int) -> int:
    """Rows of this rank's share of a table, as `tensor_split` cuts it."""
    rank = dist.get_rank() if world_size() > 1 else 0
    return size // world_size() + (rank < size % world_size())


def gather_shares(rows: Tensor, size: int, device: torch.device) -> Tensor:
    """The table [size, …] whose r-th share every rank r has on the host, on the host of every rank.
    It passes `device` in pieces, so the memory that it takes there does not grow with its size."""
    world = world_size()
    if world == 1:
        return rows
    whole = torch.empty(size, *rows.shape[1:], dtype=rows.dtype)
    shares = whole.tensor_split(world)
    piece = max(GATHERED // max(rows[0].numel() * rows.element_size(), 1), 1)
    for start in range(0, len(shares[0]), piece):
        stop = min(start + piece, len(shares[0]))
        own = rows[start:stop]
        sent = torch.zeros(stop - start, *rows.shape[1:], dtype=rows.dtype, device=device)
        sent[: len(own)] = own.to(device)
        received = [torch.empty_like(sent) for _ in range(world)]
        dist.all_gather(received, sent)
        for share, part in zip(shares, received, strict=True):
            share[start:stop] = part[: max(len(share) - start, 0)].cpu()
    return whole


def own_rows(value: Tensor) -> Tensor:
    """This rank's rows of a global batch, as `gather_rows` orders them."""
    world = world_size()
    return value if world == 1 else value.chunk(world)[dist.get_rank()]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return gather_rows(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        # summed over ranks before it is cut: the losses of other ranks depend on these rows, too
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return own_rows(gradient)


def gather_with_gradient(value: Tensor) -> Tensor:
    """Rows of all ranks in the order of the global batch, with gradient to this rank's rows through
    every rank's loss.

    A loss that relates samples to each other is not a sum over ranks. So every rank gathers the
    embeddings of the whole batch and computes the whole loss: n·n numbers and no further
    communication, which is cheap compared with a network. Backward sums the gradients that all
    ranks' losses have at a rank's own rows, and averaging gradients over ranks divides by their
    number again. So a loss of any form is exact, its value is the same on every rank, and its
    parameters (proxies) get exact gradients.

    value: [N, …], the same number of rows on every rank. Returned unchanged on one process.
    """
    if world_size() == 1:
        return value
    return _GatherRows.apply(value)


def is_first_rank() -> bool:
    """Whether this is the only process, or the first one."""
    return world_size() == 1 or dist.get_rank() == 0


def from_first_rank(value: Tensor) -> Tensor:
    """The first rank's `value`; those of the others have the same shape and type."""
    if world_size() == 1:
        return value
    value = value.detach().clone()
    dist.broadcast(value, 0)
    return value
