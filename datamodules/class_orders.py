"""Orders of a stream that choose the class first: balanced, by powers of the class counts, or
moving between two.

Each is a pure function of (seed, stream, position), see `samplers.Order`: it resumes anywhere, and
ranks share out one global sequence. An order is made of blocks; a block is a function of its
number, and the last one read is kept. Where the literature counts epochs, the number of the block
or the share of the run that is done stands for them.

Samples without a label (-1) belong to no class and do not come.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from datamodules.samplers import ShuffledPasses
from foundation.randomness import generator

DRAWS = 4096  # samples of a block of independent draws
Walk = Literal["on", "fresh", "same"]


def class_members(labels: Tensor) -> list[Tensor]:
    """Positions of the samples of each class that occurs, in order of the classes. labels: int64
    [M]."""
    order = labels.argsort(stable=True)
    order = order[labels[order] >= 0]
    return list(order.split(labels[order].unique_consecutive(return_counts=True)[1].tolist()))


def power_shares(counts: Tensor, q: float) -> Tensor:
    """p_j = n_j^q / Σ_k n_k^q in float64, [C]: q = 1 as the data are, 1/2 square root, 0 balanced.
    counts ≥ 1."""
    weights = counts.double() ** q
    return weights / weights.sum()


def progressive_shares(counts: Tensor, share: float) -> Tensor:
    """p_j = (1 - a) n_j / Σ n + a / C at the share a in [0, 1] of the way, [C] in float64."""
    return (1 - share) * power_shares(counts, 1.0) + share / len(counts)


def whole_counts(shares: Tensor, total: int, offset: float = 0.5) -> Tensor:
    """`total` whole samples over classes in proportion to `shares` [C], int64: each floor or
    ceiling of p_j · total.

    Over a uniform offset in [0, 1) the expectation is p_j · total (systematic rounding).
    """
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), shares.double().cumsum(0)])
    edges[-1] = 1.0
    return torch.ceil(edges * total - offset).long().diff()


class Blocks(ABC):
    """An order cut into blocks of `length` positions."""

    length: int

    def __init__(self) -> None:
        self._number = -1
        self._block = torch.empty(0, dtype=torch.int64)

    @abstractmethod
    def block(self, number: int) -> Tensor:
        """int64 [length]: a pure function of the number."""

    def take(self, start: int, stop: int) -> Tensor:
        pieces = []
        while start < stop:
            number, offset = divmod(start, self.length)
            if number != self._number:
                self._number = number
                self._block = self.block(number)
            piece = self._block[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class Walks:
    """For each class endless passes over its samples, each pass freshly shuffled."""

    def __init__(self, members: list[Tensor], seed: int, stream: str):
        self.members = members
        self.passes = [
            ShuffledPasses(len(own), seed, f"{stream}/class {c}") for c, own in enumerate(members)
        ]

    def take(self, number: int, start: int, count: int) -> Tensor:
        """Positions in the stream of the draws [start, start + count) of a class."""
        return self.members[number][self.passes[number].take(start, start + count)]


class ClassCycle(Blocks):
    """The class-aware cycle: the classes in shuffled order, `in_a_row` samples of each, then
    shuffled anew; each class walks through its own shuffled list and shuffles again only when it is
    through.

    A block is as many cycles as make about one pass over the data.
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
        draws = torch.stack([self.walks.take(c, number * each, each) for c in range(self.classes)])
        draws = draws.view(self.classes, self.cycles, self.in_a_row).transpose(0, 1)
        source = generator(self.seed, "classes", self.stream, number)
        order = torch.rand(self.cycles, self.classes, generator=source).argsort(1)
        return draws[torch.arange(self.cycles).unsqueeze(1), order].flatten()


class ClassPasses(Blocks):
    """Passes with given numbers of samples a class, in shuffled order.

    counts: (number of the pass, offset in [0, 1) drawn for it) -> int64 [classes that occur],
        summing to `length`.
    walk `on`: each class goes on where the pass before left its list, for counts that are the same
        in every pass;
    `fresh`: every pass begins with a fresh list of each class, so that within a pass every sample
    comes floor or ceiling of (class's number / its size) times; `same`: all passes hold the same
    samples.
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
        counts = self.counts(
            number, float(torch.rand((), generator=source, dtype=torch.float64))
        ).tolist()
        starts = [self._start(c, number, count) for c, count in enumerate(counts)]
        drawn = [
            self.walks.take(c, start, counts[c]) for c, start in enumerate(starts) if counts[c]
        ]
        return torch.cat(drawn)[torch.randperm(self.length, generator=source)]

    def _start(self, c: int, number: int, count: int) -> int:
        if self.walk == "on":
            return number * count
        size = len(self.walks.members[c])
        # no pass can use up more lists of a class than would fill it whole
        return 0 if self.walk == "same" else number * -(-self.length // size) * size


class ClassDraws(Blocks):
    """Independent draws with replacement: a class with the probability `shares` [classes that
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
