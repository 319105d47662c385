"""Square attack, by queries alone. Andriushchenko et al., Square Attack: a query-efficient
black-box adversarial attack via random search, ECCV 2020, arXiv 1912.00049."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from foundation.randomness import RowNumbers
from foundation.types import Count
from methods.adversarial.attacks.attack import (
    Draws,
    Queried,
    QueryAttack,
    Victim,
    decades,
)
from methods.adversarial.attacks.losses import Objective
from methods.adversarial.attacks.threat import Norm, Threat

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# queries whose random numbers are drawn at once: every draw costs calls on the host to seed a
# generator
AHEAD = 64


def share(query: int, initial: float) -> float:
    """The share of the image that a square covers: halved after 10, 50, 200, … queries."""
    return initial * 0.5 ** sum(query > limit for limit in HALVED_AFTER)


def side(query: int, initial: float, height: int, width: int) -> int:
    """max(round √(p H W), 1), at most the image's shorter side."""
    area = share(query, initial) * height * width
    return min(max(round(math.sqrt(area)), 1), height, width)


def window(corner: Tensor, size: int, extent: int) -> Tensor:
    """bool [..., extent] of int64 [...]: True on [corner_i, corner_i + size)."""
    positions = torch.arange(extent, device=corner.device)
    start = corner.unsqueeze(-1)
    return (positions >= start) & (positions < start + size)


def squares(
    shape: torch.Size, draw: Callable[[str], RowNumbers], initial: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The proposals of queries 1, 2, …: the square's rows, bool [N, 1, H, 1], its columns, bool
    [N, 1, 1, W], and the channels set to +eps in it, bool [N, C, 1, 1].

    The random numbers of up to AHEAD queries with squares of one size are drawn together, keyed by
    the first. Their count does not depend on how many proposals are used, so that a longer search
    begins like a shorter one.
    """
    _, channels, height, width = shape
    last = 0
    while True:
        first = last + 1
        last = min([last + AHEAD, *(limit for limit in HALVED_AFTER if limit >= first)])
        size = side(first, initial, height, width)
        count = last + 1 - first
        top = draw(f"top/{first}").integers(0, height - size + 1, count)
        left = draw(f"left/{first}").integers(0, width - size + 1, count)
        up = upwards(draw(f"colour/{first}").uniform(count, channels))
        rows = window(top, size, height)[:, :, None, :, None].unbind(1)
        columns = window(left, size, width)[:, :, None, None].unbind(1)
        yield from zip(rows, columns, up[..., None, None].unbind(1), strict=True)


@dataclass
class Search:
    """The samples that are still attacked.

    rows: int64 [n], their rows in the batch. high, low: [n, C, H, W], pixels at +eps and -eps; a
        square sets every pixel to one of the two.
    best: the point with the largest value so far, and reached [n], that value. queries: int64 [n].
    """

    rows: Tensor
    high: Tensor
    low: Tensor
    best: Tensor
    reached: Tensor
    queries: Tensor

    @classmethod
    def start(
        cls, value: Objective, x: Tensor, threat: Threat, draw: Callable[[str], RowNumbers]
    ) -> "Search":
        """All samples, at vertical stripes of ±eps."""
        high = threat.project(x, x + threat.eps)
        low = threat.project(x, x - threat.eps)
        stripes = upwards(draw("stripes").uniform(x.shape[1], 1, x.shape[3]))
        best = torch.where(stripes, high, low)
        rows = torch.arange(len(x), device=x.device)
        return cls(rows, high, low, best, value(best), torch.ones_like(rows))

    def query(self, value: Objective, proposal: tuple[Tensor, Tensor, Tensor]) -> None:
        """Set the proposed square in samples not yet misclassified whose value it raises."""
        rows, columns, up = (part[self.rows] for part in proposal)
        changed = torch.where(up, self.high, self.low)
        tried = torch.where(rows & columns, changed, self.best)
        values = value(tried)
        alive = self.reached < 0
        better = alive & (values > self.reached)
        self.queries += alive
        self.best = torch.where(better.view(-1, 1, 1, 1), tried, self.best)
        self.reached = torch.where(better, values, self.reached)

    def only(self, left: Tensor) -> "Search":
        """The search restricted to the samples `left`, int64."""
        return Search(*(getattr(self, entry.name)[left] for entry in fields(self)))

    def write(self, result: Queried) -> None:
        """Write the state of these samples to their rows of the result."""
        result.x[self.rows] = self.best
        result.queries[self.rows] = self.queries
        result.success[self.rows] = self.reached >= 0


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
    stripes of ±eps, then per query set one random square to ±eps per channel, and keep it if the
    value rises.

    For linf only. Every sample has its own square, with corners in [0, H - s] (the authors' code
    shares one square and omits the last corner). Misclassified samples are not changed further.

    draw: purpose -> random numbers, one row per sample.
    among: rows, int64 [n] -> the objective of those samples. With it, misclassified samples are no
        longer forwarded, at the cost of one device sync per query, and the search ends with the
        last of them.
    """
    search = Search.start(value, x.detach().float(), threat, draw)
    result = Queried(search.best.clone(), search.queries.clone(), search.reached >= 0)
    for proposal in islice(squares(x.shape, draw, initial), queries - 1):
        if among is not None:
            left = (search.reached < 0).nonzero().squeeze(1)
            if len(left) < len(search.rows):
                search.write(result)
                search = search.only(left)
                value = among(search.rows)
            if not len(left):
                break
        search.query(value, proposal)
    search.write(result)
    return result


def upwards(uniform: Tensor) -> Tensor:
    """True with probability one half, from numbers in [0, 1)."""
    return uniform >= 0.5


class Square(QueryAttack):
    """x' = argmax of the margin loss over random squares of ±eps, by `queries` forwards per sample
    and without gradients, in linf: it succeeds where masked gradients stop other attacks.

    queries: queries of the network per sample, at least 1; 1000.
    initial: share of the picture that the first squares cover, in (0, 1]; 0.8 (AutoAttack).
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    images_only: ClassVar[str] = "Square changes squares of pixels"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def __init__(self, queries: Count = 1000, initial: Annotated[float, Field(gt=0, le=1)] = 0.8):
        self.queries = queries
        self.initial = initial

    def budgets(self) -> list[int]:
        return decades(self.queries)

    def queried(self, victim: Victim, threat: Threat, draw: Draws) -> Queried:
        def among(rows: Tensor) -> Objective:
            return victim.among(rows).objective("margin")

        value = victim.objective("margin")
        settings = (self.queries, draw, self.initial, among)
        return square_attack(value, victim.x, threat, *settings)
