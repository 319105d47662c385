"""J Jᵀ and wᵀ J of the Jacobian J of the task losses, [T, n], which is never made as a whole.

J is kept as its rows, and a row as the gradients that autograd gave: one for each of the tensors
`of`, None where the task does not reach that one. An empty row is that of a task which reaches
none.
"""

from collections.abc import Iterable, Iterator, MutableSequence, Sequence

import torch
from torch import Tensor

from foundation import devices
from foundation.distributed import global_sum, world_size

CACHED = 2**18  # numbers of a block of J on the CPU, about what its caches hold
NARROW = 2**14  # its columns at least, so that a product is worth a call
BLOCK = 2**24  # numbers of a block that a device multiplies or ranks send

Row = Sequence[Tensor | None]


def dense(row: Row) -> list[Tensor | None]:
    """The row with contiguous gradients, so that all are flattened in the same order."""
    return [None if gradient is None else gradient.contiguous() for gradient in row]


def runs(sizes: Iterable[int], width: int) -> Iterator[list[tuple[int, slice]]]:
    """Cut the concatenation of tensors of these sizes into runs of `width` numbers: which part of
    which tensor each has."""
    run: list[tuple[int, slice]] = []
    left = width
    for i, size in enumerate(sizes):
        start = 0
        while start < size:
            stop = min(size, start + left)
            run.append((i, slice(start, stop)))
            left -= stop - start
            start = stop
            if not left:
                yield run
                run = []
                left = width
    if run:
        yield run


def blocks(rows: Sequence[Row], of: Sequence[Tensor]) -> Iterator[Tensor]:
    """J [T, n] in blocks of columns, float32; 0 where a task does not reach a tensor."""
    tasks = len(rows)
    in_cache = devices.readable(of[0]) and world_size() == 1
    width = max(CACHED // tasks, NARROW) if in_cache else max(BLOCK // tasks, 1)
    flat = [flattened(row, of) for row in rows]
    for run in runs([x.numel() for x in of], width):
        parts = [row[i][part] for row in flat for i, part in run]
        yield torch.cat(parts).view(tasks, -1).float()


def flattened(row: Row, of: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a row as vectors, without a copy."""
    vectors = []
    for gradient, x in zip(row or [None] * len(of), of, strict=True):
        if gradient is None:
            vectors.append(x.new_zeros(1).expand(x.numel()))  # one number in memory
        else:
            vectors.append(gradient.reshape(-1))
    return vectors


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


def at_least_float32(gradient: Tensor) -> Tensor:
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def weighted(rows: MutableSequence[list[Tensor]], weights: Tensor) -> list[Tensor]:
    """wᵀ J = Σ_t w_t g_t, by tensor, in float32 at least. weights: w [T].

    Rows that are not empty have a gradient for every tensor. Rows are emptied as they are added, so
    that memory falls again.
    """
    total: list[Tensor] = []
    for task, weight in enumerate(weights.unbind()):
        row = [at_least_float32(gradient) for gradient in rows[task]]
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
