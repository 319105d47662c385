"""Square attack, by queries alone. Andriushchenko et al., Square Attack: a query-efficient
black-box adversarial attack via random search, ECCV 2020, arXiv 1912.00049."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from foundation.randomness import RowNumbers
from methods.adversarial.attacks.losses import Objective
from methods.adversarial.attacks.threat import Threat

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# queries whose random numbers are drawn at a time: seeding and scrambling cost a call of the host
# each
AHEAD = 64


class Queried(NamedTuple):
    """x: [N, C, H, W]. queries: int64 [N], those a sample took until it was misread. success: bool
    [N]."""

    x: Tensor
    queries: Tensor
    success: Tensor


def share(query: int, initial: float) -> float:
    """The part of the picture that a square covers: halved after 10, 50, 200, … queries."""
    return initial * 0.5 ** sum(query > limit for limit in HALVED_AFTER)


def side(query: int, initial: float, height: int, width: int) -> int:
    """max(round √(p H W), 1), at most the picture's shorter side."""
    return min(max(round(math.sqrt(share(query, initial) * height * width)), 1), height, width)


def window(corner: Tensor, size: int, extent: int) -> Tensor:
    """bool [..., extent] of int64 [...]: True on [corner_i, corner_i + size)."""
    places = torch.arange(extent, device=corner.device)
    return (places >= corner.unsqueeze(-1)) & (places < corner.unsqueeze(-1) + size)


def squares(
    shape: torch.Size, draw: Callable[[str], RowNumbers], initial: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What the queries 1, 2, … try, by query: the square's rows, bool [N, 1, H, 1], its columns,
    bool [N, 1, 1, W], and the channels that go up in it, bool [N, C, 1, 1].

    Numbers of up to AHEAD queries with squares of one size are drawn together, under the name of
    the first: of as many whether all are asked for or not, so that a longer search begins as a
        shorter one.
    """
    _, channels, height, width = shape
    last = 0
    while True:
        first = last + 1
        last = min([last + AHEAD, *(limit for limit in HALVED_AFTER if limit >= first)])
        size = side(first, initial, height, width)
        count = last + 1 - first
        tall, wide = (
            window(draw(f"{name}/{first}").integers(0, extent - size + 1, count), size, extent)
            for name, extent in (("top", height), ("left", width))
        )
        up = upwards(draw(f"colour/{first}").uniform(count, channels))
        shaped = tall[:, :, None, :, None], wide[:, :, None, None], up[..., None, None]
        yield from zip(*(part.unbind(1) for part in shaped), strict=True)


@torch.no_grad()
def square_attack(
    value: Objective,
    x: Tensor,
    threat: Threat,
    queries: int,
    draw: Callable[[str], RowNumbers],
    initial: float = 0.8,
    among: Callable[[Tensor], Objective] | None = None,
) -> Queried:
    """Random search for a positive `value` (the margin max_{j≠y} z_j - z_y): start with vertical
    stripes of ±eps, then set one random square a query to ±eps a channel, and keep it where the
    value rises.

    linf alone. draw: purpose -> random numbers, a row a sample. Every sample has a square of its
    own, with corners in [0, H - s] (the authors' code shares one place and leaves out the last).
    Misread samples are left as they are. among: rows, int64 [n] -> the objective of those samples
    alone; with it, misread samples are no longer forwarded, for which the host waits once a query,
    and the search ends with the last of them.
    """
    x = x.detach().float()
    # a square sets every pixel to one of these two
    high, low = (threat.project(x, x + change) for change in (threat.eps, -threat.eps))
    best = torch.where(upwards(draw("stripes").uniform(x.shape[1], 1, x.shape[3])), high, low)
    reached = value(best)
    whole = Queried(
        best.clone(), torch.ones(len(x), dtype=torch.int64, device=x.device), reached >= 0
    )
    rows = torch.arange(len(x), device=x.device)
    taken = whole.queries.clone()
    for proposed in islice(squares(x.shape, draw, initial), queries - 1):
        if among is not None:
            left = (reached < 0).nonzero().squeeze(1)
            if len(left) < len(rows):
                keep(whole, rows, best, taken, reached)
                rows, value = rows[left], among(rows[left])
                high, low, best, taken, reached = (
                    kept[left] for kept in (high, low, best, taken, reached)
                )
            if not len(rows):
                break
        tall, wide, up = (part[rows] for part in proposed)
        tried = torch.where(tall & wide, torch.where(up, high, low), best)
        found = value(tried)
        alive = reached < 0
        better = alive & (found > reached)
        taken += alive
        best = torch.where(better.view(-1, 1, 1, 1), tried, best)
        reached = torch.where(better, found, reached)
    return keep(whole, rows, best, taken, reached)


def keep(whole: Queried, rows: Tensor, best: Tensor, taken: Tensor, reached: Tensor) -> Queried:
    """Write what was found of these rows to its place."""
    whole.x[rows] = best
    whole.queries[rows] = taken
    whole.success[rows] = reached >= 0
    return whole


def upwards(uniform: Tensor) -> Tensor:
    """bool with equal chances, of numbers in [0, 1)."""
    return uniform >= 0.5
