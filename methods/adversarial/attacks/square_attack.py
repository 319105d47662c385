"""Square attack, by queries alone. Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack
via random search, ECCV 2020, arXiv 1912.00049."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.randomness import Rows
from methods.adversarial.attacks.losses import Objective
from methods.adversarial.attacks.threat import Threat

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Queried(NamedTuple):
    """x: [N, C, H, W]. queries: int64 [N], those a sample took until it was misread. success: bool [N]."""

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
    """bool [N, extent], True on [corner_i, corner_i + size)."""
    places = torch.arange(extent, device=corner.device)
    return (places >= corner.unsqueeze(1)) & (places < corner.unsqueeze(1) + size)


def squares(
    x: Tensor, eps: float, query: int, draw: Callable[[str], Rows], initial: float, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """(where: bool [n, 1, H, W], change: ±eps [n, C, 1, 1]) that a query tries on these rows of x [N, C, H, W]."""
    _, channels, height, width = x.shape
    size = side(query, initial, height, width)
    top, left = (
        draw(f"{name}/{query}").integers(0, extent - size + 1)[rows]
        for name, extent in (("top", height), ("left", width))
    )
    inside = window(top, size, height).unsqueeze(2) & window(left, size, width).unsqueeze(1)
    return inside.unsqueeze(1), eps * signs(draw(f"colour/{query}").uniform(channels, 1, 1)[rows])


@torch.no_grad()
def square_attack(
    value: Objective,
    x: Tensor,
    threat: Threat,
    queries: int,
    draw: Callable[[str], Rows],
    initial: float = 0.8,
    among: Callable[[Tensor], Objective] | None = None,
) -> Queried:
    """Random search for a positive `value` (the margin max_{j≠y} z_j - z_y): start with vertical stripes of ±eps, then
    set one random square a query to ±eps a channel, and keep it where the value rises.

    linf alone. draw: purpose -> random numbers, a row a sample. Every sample has a square of its own, with corners in
    [0, H - s] (the authors' code shares one place and leaves out the last). Misread samples are left as they are.
    among: rows, int64 [n] -> the objective of those samples alone; with it, misread samples are no longer forwarded,
    for which the host waits once a query, and the search ends with the last of them.
    """
    x = x.detach().float()
    best = threat.project(x, x + threat.eps * signs(draw("stripes").uniform(x.shape[1], 1, x.shape[3])))
    reached = value(best).clone()
    taken = torch.ones(len(x), dtype=torch.int64, device=x.device)
    rows, here, ask = torch.arange(len(x), device=x.device), x, value
    for query in range(1, queries):
        if among is not None:
            alive = (reached < 0).nonzero().squeeze(1)
            if not len(alive):
                break
            if len(alive) < len(rows):
                rows, here, ask = alive, x[alive], among(alive)
        where, change = squares(x, threat.eps, query, draw, initial, rows)
        before, low = best[rows], reached[rows]
        tried = torch.where(where, threat.project(here, here + change), before)
        found = ask(tried)
        better = (low < 0) & (found > low)
        taken[rows] += low < 0
        best[rows] = torch.where(better.view(-1, 1, 1, 1), tried, before)
        reached[rows] = torch.where(better, found, low)
    return Queried(best, taken, reached >= 0)


def signs(uniform: Tensor) -> Tensor:
    """±1 with equal chances, of numbers in [0, 1)."""
    return torch.where(uniform < 0.5, -1.0, 1.0)
