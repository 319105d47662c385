"""The nearest neighbors of embeddings among each other, in bounded memory and with a deterministic
order of equal similarities."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

BLOCK = 2**24  # largest number of similarities in memory
FEW = 16  # `nearest` pays up to a depth of 1/FEW of a tile's side


def ranking_keys(similarity: Tensor, index: Tensor | None = None) -> Tensor:
    """int64 [Q, n], distinct within a row: larger for a more similar reference, and among
    bit-identical similarities for the smaller index. So the order does not depend on how a sort
    breaks ties. index: [Q, n] of the references; None: 0, 1, 2 …"""
    if index is None:
        index = torch.arange(similarity.shape[1], device=similarity.device)
    # + 0 maps -0 to 0
    bits = (similarity.float() + 0.0).view(torch.int32).long()
    # negative floats in the order of their values
    ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (ordered << 32) - index


def largest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values of each row, [Q, count], descending, and their columns; of equal
    values any.

    Columns are divided into groups of every n-th column. The largest values are in the groups with
    the `count` largest maxima, so only these groups are sorted: one fast pass over the row instead
    of a sort of all entries.
    """
    rows, columns = similarity.shape
    width = math.isqrt(columns // count)
    if width < 4:
        return similarity.topk(count, dim=1)
    groups = columns // width
    rest = torch.arange(groups * width, columns, device=similarity.device).expand(rows, -1)
    if similarity.is_contiguous():
        maxima = similarity[:, : groups * width].unflatten(1, (width, groups)).amax(1)
    else:  # the transpose of a contiguous matrix: read along its rows, which is fastest
        maxima = similarity.T[: groups * width].unflatten(0, (width, groups)).amax(0).T.contiguous()
    first = maxima.topk(count, dim=1, sorted=False).indices
    members = first[:, :, None] + groups * torch.arange(width, device=similarity.device)
    candidates = torch.cat([members.flatten(1), rest], 1)
    values, positions = similarity.gather(1, candidates).topk(count, dim=1)
    return values, candidates.gather(1, positions)


def ranked(similarity: Tensor, depth: int) -> Tensor:
    """int64 [Q, depth]: the most similar references, among equal ones the smaller index first."""
    if depth >= similarity.shape[1]:
        return ranking_keys(similarity).argsort(dim=1, descending=True)[:, :depth]
    values, index = largest(similarity, depth + 1)
    keys = ranking_keys(values[:, :depth], index[:, :depth])
    index = index[:, :depth].gather(1, keys.argsort(1, descending=True))
    # if the last value also occurs outside the result, the smaller indices belong to it
    tied = (values[:, depth - 1] == values[:, depth]).nonzero().flatten()
    for rows in tied.split(max(BLOCK // 8 // similarity.shape[1], 1)):
        index[rows] = ranking_keys(similarity[rows]).topk(depth, dim=1).indices
    return index


def mirrors(x: Tensor, depth: int) -> bool:
    """Whether `nearest` pays: on a CPU, where products cost more than sorting, and for few
    neighbors relative to a tile."""
    return x.device.type == "cpu" and FEW * depth <= math.isqrt(BLOCK)


def nearest(x: Tensor, wanted: slice, depth: int) -> Tensor:
    """int64 [W, depth]: the nearest neighbors of the rows `wanted` of x among all others, in the
    order of `ranked`.

    Similarities are computed in square tiles; the tile of rows j by rows i is the transpose of that
    of i by j. The best neighbors so far are kept per row. x: [R, d], R > depth.
    """
    pieces = [*cut(0, wanted.start), *cut(wanted.start, wanted.stop), *cut(wanted.stop, len(x))]
    values = x.new_full((wanted.stop - wanted.start, depth), -torch.inf)
    index = torch.full_like(values, len(x), dtype=torch.int64)
    # one buffer for all tiles: allocating new pages takes a third of a product's time
    tile = x.new_empty(max(piece.stop - piece.start for piece in pieces) ** 2)

    def merge(rows: slice, columns: slice, similarity: Tensor) -> None:
        """Update the best neighbors of `rows` by those in a tile."""
        own = slice(rows.start - wanted.start, rows.stop - wanted.start)
        new = ranked(similarity, depth)
        both_values = torch.cat([values[own], similarity.gather(1, new)], 1)
        both_indices = torch.cat([index[own], new.add_(columns.start)], 1)
        best = ranking_keys(both_values, both_indices).topk(depth, dim=1).indices
        values[own] = both_values.gather(1, best)
        index[own] = both_indices.gather(1, best)

    for number, rows in enumerate(pieces):
        for columns in pieces[number:]:
            rows_wanted = wanted.start <= rows.start < wanted.stop
            columns_wanted = wanted.start <= columns.start < wanted.stop
            if not (rows_wanted or columns_wanted):
                continue
            size = (rows.stop - rows.start, columns.stop - columns.start)
            similarity = torch.mm(x[rows], x[columns].T, out=tile[: math.prod(size)].view(size))
            if rows is columns:
                similarity.fill_diagonal_(-torch.inf)  # a row is not its own neighbor
            if rows_wanted:
                merge(rows, columns, similarity)
            if columns_wanted and rows is not columns:
                merge(columns, rows, similarity.T)
    return index


def cut(start: int, stop: int) -> Iterator[slice]:
    """Slices of about equal length, at most √BLOCK."""
    parts = math.ceil((stop - start) / math.isqrt(BLOCK))
    ends = [start + (stop - start) * part // max(parts, 1) for part in range(parts + 1)]
    return (slice(*pair) for pair in pairwise(ends))
