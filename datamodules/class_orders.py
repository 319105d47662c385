"""Orders of a stream that choose the class first: balanced, by powers of the class counts, or
interpolated between the two.

Each is a pure function of (seed, stream, position), see `samplers.Order`: it can resume anywhere,
and ranks split one global sequence. Where the literature counts epochs, we use the number of the
block or the completed share of the run.

Samples without a label (-1) are skipped.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from datamodules.samplers import Blocks, ShuffledPasses
from datamodules.splits import class_members
from foundation.randomness import generator

DRAWS = 4096  # samples in a block of independent draws
Walk = Literal["on", "fresh", "same"]


def power_shares(counts: Tensor, q: float) -> Tensor:
    """p_j = n_j^q / Σ_k n_k^q in float64, [C]: q = 1 instance-balanced, 1/2 square root, 0
    class-balanced. counts ≥ 1."""
    weights = counts.double() ** q
    return weights / weights.sum()


def progressive_shares(counts: Tensor, share: float) -> Tensor:
    """p_j = (1 - a) n_j / Σ n + a / C for a = `share` in [0, 1], [C] in float64."""
    return (1 - share) * power_shares(counts, 1.0) + share / len(counts)


def whole_counts(shares: Tensor, total: int, offset: float = 0.5) -> Tensor:
    """Distribute `total` samples over classes in proportion to `shares` [C], int64: each count is
    the floor or ceiling of p_j · total.

    With a uniform offset in [0, 1) the expectation is p_j · total (systematic rounding).
    """
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), shares.double().cumsum(0)])
    edges[-1] = 1.0
    return torch.ceil(edges * total - offset).long().diff()


class Walks:
    """For each class endless passes over its samples, each pass shuffled again."""

    def __init__(self, members: list[Tensor], seed: int, stream: str):
        self.members = members
        self.passes = [
            ShuffledPasses(len(own), seed, f"{stream}/class {c}") for c, own in enumerate(members)
        ]

    def draws(self, number: int, start: int, count: int) -> Tensor:
        """Positions in the stream of the draws [start, start + count) of a class."""
        return self.members[number][self.passes[number].take(start, start + count)]


class ClassCycle(Blocks):
    """Class-aware sampling: cycles over the classes in shuffled order with `in_a_row` samples of
    each. Every class keeps its own shuffled list, which is shuffled again only at its end.

    A block is the number of cycles that is about one pass over the data.
    """

    def __init__(self, labels: Tensor, seed: int, stream: str, in_a_row: int = 1):
        super().__init__()
        members = class_members(labels)
        self.walks = Walks(members, seed, stream)
        self.seed = seed
        self.stream = stream
        self.classes = len(members)
        self.in_a_row = in_a_row
        cycle = self.classes * in_a_row
        self.cycles = max(sum(map(len, members)) // cycle, 1)
        self.length = self.cycles * cycle

    def block(self, number: int) -> Tensor:
        each = self.cycles * self.in_a_row
        rows = [self.walks.draws(c, number * each, each) for c in range(self.classes)]
        draws = torch.stack(rows).view(self.classes, self.cycles, self.in_a_row).transpose(0, 1)
        source = generator(self.seed, "classes", self.stream, number)
        order = torch.rand(self.cycles, self.classes, generator=source).argsort(1)
        return draws[torch.arange(self.cycles).unsqueeze(1), order].flatten()


class ClassPasses(Blocks):
    """Passes with given numbers of samples per class, in shuffled order.

    counts: (number of the pass, offset in [0, 1) drawn for it) -> int64 [classes that occur],
        summing to `length`.
    walk: `on` continues the list of each class where the pass before stopped, for counts that are
        the same in every pass. `fresh` starts every pass with a new list of each class, so that
        within a pass every sample occurs floor or ceiling of (samples of its class in the pass /
        size of its class) times. `same`: all passes have the same samples.
    """

    def __init__(
        self,
        labels: Tensor,
        length: int,
        counts: Callable[[int, float], Tensor],
        seed: int,
        stream: str,
        walk: Walk = "fresh",
    ):
        super().__init__()
        self.walks = Walks(class_members(labels), seed, stream)
        self.seed = seed
        self.stream = stream
        self.length = length
        self.counts = counts
        self.walk = walk

    def block(self, number: int) -> Tensor:
        source = generator(self.seed, "pass", self.stream, number)
        offset = float(torch.rand((), generator=source, dtype=torch.float64))
        drawn = []
        for c, count in enumerate(self.counts(number, offset).tolist()):
            if count:
                drawn.append(self.walks.draws(c, self._start(c, number, count), count))
        return torch.cat(drawn)[torch.randperm(self.length, generator=source)]

    def _start(self, c: int, number: int, count: int) -> int:
        if self.walk == "on":
            return number * count
        size = len(self.walks.members[c])
        if self.walk == "same":
            return 0
        # a list no earlier pass can have reached: a pass uses at most ceil(length / size) lists
        return number * math.ceil(self.length / size) * size


class ClassDraws(Blocks):
    """Independent draws with replacement: first a class with probability `shares` [classes that
    occur], then one of its samples."""

    length = DRAWS

    def __init__(self, labels: Tensor, shares: Tensor, seed: int, stream: str):
        super().__init__()
        self.members = class_members(labels)
        self.seed = seed
        self.stream = stream
        self.sizes = torch.tensor([len(own) for own in self.members])
        self.first = self.sizes.cumsum(0) - self.sizes
        self.samples = torch.cat(self.members)
        self.edges = shares.double().cumsum(0)

    def block(self, number: int) -> Tensor:
        source = generator(self.seed, "draws", self.stream, number)
        u, v = torch.rand(2, self.length, generator=source, dtype=torch.float64)
        chosen = torch.searchsorted(self.edges, u, right=True).clamp_max(len(self.members) - 1)
        within = (v * self.sizes[chosen]).long().clamp_max(self.sizes[chosen] - 1)
        return self.samples[self.first[chosen] + within]


def sizes_of(labels: Tensor) -> Tensor:
    """int64: samples of each class that occurs."""
    return torch.tensor([len(own) for own in class_members(labels)])
