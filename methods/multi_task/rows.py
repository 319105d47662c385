"""J, the gradients of the tasks, kept as its rows: each is the tensors that autograd gave, and
never copied as a whole.

A row is a gradient for each of the tensors `of`, None where the task does not reach that one; an
empty row is that of a task which reaches none.
"""

from collections.abc import Iterable, Iterator, MutableSequence, Sequence

import torch
from torch import Tensor

from foundation import devices
from foundation.distributed import global_sum, world_size

CACHED = 2**18  # numbers of a block on the CPU, about what its caches hold
NARROW = 2**14  # columns of a block on the CPU at least, so that a product is worth a call
BLOCK = 2**24  # numbers of a block that a device multiplies or ranks send

Row = Sequence[Tensor | None]


def dense(row: Row) -> list[Tensor | None]:
    """The row with its gradients laid out in the order of their indices, as all blocks are."""
    return [None if gradient is None else gradient.contiguous() for gradient in row]


def runs(sizes: Iterable[int], width: int) -> Iterator[list[tuple[int, slice]]]:
    """Cut tensors of these sizes, one behind the other, into runs of `width` numbers: which part of
    which tensor."""
    run: list[tuple[int, slice]] = []
    room = width
    for i, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + room)
            run.append((i, slice(start, stop)))
            room, start = room - (stop - start), stop
            if not room:
                yield run
                run, room = [], width
    if run:
        yield run


def blocks(rows: Sequence[Row], of: Sequence[Tensor]) -> Iterator[Tensor]:
    """J [T, n] in parts of float32 with some of its columns each; what a task does not reach is
    zero."""
    tasks = len(rows)
    local = devices.readable(of[0]) and world_size() == 1
    width = max(CACHED // tasks, NARROW) if local else max(BLOCK // tasks, 1)
    flat = [
        [flattened(g, x) for g, x in zip(row or [None] * len(of), of, strict=True)] for row in rows
    ]
    for run in runs([x.numel() for x in of], width):
        yield torch.cat([row[i][part] for row in flat for i, part in run]).view(tasks, -1).float()


def flattened(gradient: Tensor | None, x: Tensor) -> Tensor:
    return x.new_zeros(1).expand(x.numel()) if gradient is None else gradient.reshape(-1)


def gram(parts: Iterable[Tensor]) -> Tensor:
    """J Jᵀ = Σ_b J_b J_bᵀ of the blocks, [T, T]."""
    total: Tensor | None = None
    for j in parts:
        total = j @ j.T if total is None else total.addmm_(j, j.T)
    assert total is not None
    return total


def averaged(block: Tensor) -> Tensor:
    """The mean over ranks of a block of J."""
    return block if world_size() == 1 else global_sum(block) / world_size()


def weighted(rows: MutableSequence[list[Tensor]], weights: Tensor) -> list[Tensor]:
    """Σ_t w_t g_t by tensor, in float32 at least. Rows are let go as they are added, so that memory
    falls again. Those that are not empty have a gradient for every tensor."""
    total: list[Tensor] = []
    for task, weight in enumerate(weights.unbind()):
        row = [
            gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            for gradient in rows[task]
        ]
        rows[task] = []
        if not row:
            continue
        if not total:
            total = [gradient * weight for gradient in row]
        elif devices.readable(weight):
            torch._foreach_add_(total, row, alpha=float(weight))
        else:
            torch._foreach_add_(total, torch._foreach_mul(row, weight))
    return total
