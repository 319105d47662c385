"""The nearest neighbours of embeddings among each other, in bounded memory and without ties that
chance would break."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

BLOCK = 2**24  # similarities at once
FEW = 16  # share of a tile up to which neighbours count as few


def ranking_keys(similarity: Tensor, index: Tensor | None = None) -> Tensor:
    """int64 [Q, n], all different in a row: larger for a more similar reference, and for the one
    with the smaller index where similarities are equal to the last bit. So a ranking has no ties
    that a sort might break by chance. index: [Q, n] of the references; None: 0, 1, 2 …"""
    bits = (similarity.float() + 0.0).view(torch.int32).long()  # + 0: one zero only
    ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (ordered << 32) - (
        torch.arange(similarity.shape[1], device=similarity.device) if index is None else index
    )


def largest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest values of each row, [Q, count], descending, and where they are; of equal
    ones any.

    Columns are put in groups, n columns apart. The largest values lie in the groups of the `count`
    largest maxima, so only these are looked through: one fast pass over the row in place of a sort
    that looks at every entry.
    """
    rows, columns = similarity.shape
    width = math.isqrt(columns // count)
    if width < 4:
        return similarity.topk(count, dim=1)
    groups = columns // width
    rest = torch.arange(groups * width, columns, device=similarity.device).expand(rows, -1)
    if similarity.is_contiguous():
        maxima = similarity[:, : groups * width].unflatten(1, (width, groups)).amax(1)
    else:  # the transpose of a matrix that lies in memory row by row, as it is read fastest
        maxima = similarity.T[: groups * width].unflatten(0, (width, groups)).amax(0).T.contiguous()
    first = maxima.topk(count, dim=1, sorted=False).indices
    members = first[:, :, None] + groups * torch.arange(width, device=similarity.device)
    candidates = torch.cat([members.flatten(1), rest], 1)
    values, place = similarity.gather(1, candidates).topk(count, dim=1)
    return values, candidates.gather(1, place)


def ranked(similarity: Tensor, depth: int) -> Tensor:
    """int64 [Q, depth]: the most similar references, equal ones by the smaller index."""
    if depth >= similarity.shape[1]:
        return ranking_keys(similarity).argsort(dim=1, descending=True)[:, :depth]
    values, index = largest(similarity, depth + 1)
    index = index[:, :depth].gather(
        1, ranking_keys(values[:, :depth], index[:, :depth]).argsort(1, descending=True)
    )
    # where the last one has equals outside, which of them belong is a matter of their index
    tied = (values[:, depth - 1] == values[:, depth]).nonzero().flatten()
    for rows in tied.split(max(BLOCK // 8 // similarity.shape[1], 1)):
        index[rows] = ranking_keys(similarity[rows]).topk(depth, dim=1).indices
    return index


def mirrors(x: Tensor, depth: int) -> bool:
    """Whether `nearest` pays: where products cost more than sorting, and neighbours are few beside
    a tile."""
    return x.device.type == "cpu" and FEW * depth <= math.isqrt(BLOCK)


def nearest(x: Tensor, wanted: slice, depth: int) -> Tensor:
    """int64 [W, depth]: the nearest neighbours of the rows `wanted` of x among all others, as
    `ranked` orders them.

    x: [R, d], depth: less than R. Similarities come in square tiles. One of the rows i.. by the
    rows j.. is, turned over, that of j.. by i.., so that half of the products do. Of each row the
    best so far are kept.
    """
    pieces = [*cut(0, wanted.start), *cut(wanted.start, wanted.stop), *cut(wanted.stop, len(x))]
    values = x.new_full((wanted.stop - wanted.start, depth), -torch.inf)
    index = torch.full_like(values, len(x), dtype=torch.int64)
    # one memory for all tiles: fresh pages would take the system a third of a product's time
    tile = x.new_empty(max(piece.stop - piece.start for piece in pieces) ** 2)

    def merge(rows: slice, columns: slice, similarity: Tensor) -> None:
        place = slice(rows.start - wanted.start, rows.stop - wanted.start)
        found = ranked(similarity, depth)
        both = torch.cat([values[place], similarity.gather(1, found)], 1)
        which = torch.cat([index[place], found.add_(columns.start)], 1)
        best = ranking_keys(both, which).topk(depth, dim=1).indices
        values[place], index[place] = both.gather(1, best), which.gather(1, best)

    for number, rows in enumerate(pieces):
        for columns in pieces[number:]:
            asking = [wanted.start <= piece.start < wanted.stop for piece in (rows, columns)]
            if not any(asking):
                continue
            size = (rows.stop - rows.start, columns.stop - columns.start)
            similarity = torch.mm(x[rows], x[columns].T, out=tile[: math.prod(size)].view(size))
            if rows is columns:
                similarity.fill_diagonal_(-torch.inf)  # the query itself is no neighbour
            if asking[0]:
                merge(rows, columns, similarity)
            if asking[1] and rows is not columns:
                merge(columns, rows, similarity.T)
    return index


def cut(start: int, stop: int) -> Iterator[slice]:
    """Pieces of about equal length, the square of which is a block at most."""
    parts = math.ceil((stop - start) / math.isqrt(BLOCK))
    ends = [start + (stop - start) * part // max(parts, 1) for part in range(parts + 1)]
    return (slice(*pair) for pair in pairwise(ends))
