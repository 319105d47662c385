"""Losses of pairs, a block of anchors at a time: neither the matrix of all pairs nor a mask of it is ever whole.

Every loss of the family is a sum over anchors of something about an anchor's row of similarities or distances. `summed`
makes a block of rows, asks a loss for its value and its derivative by these numbers, and turns that into gradients of
the embeddings at once. So forward and backward hold a block, whatever the batch, and a block stays in the cache.

Positives of an anchor are few and come as a list, [b, K]; negatives are nearly all others and come as the matrix, in
which whatever is no negative is set infinitely far.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from methods.metric_learning.measures import Measure

# numbers of a block: on a CPU what its cache holds, elsewhere enough to keep the device busy
BLOCK = {"cpu": 2**18}
BLOCK_ELSEWHERE = 2**24
FEW = 64  # share of a row from which single entries cost more than a matrix product


class Block(NamedTuple):
    """Anchors [b] against references [R].

    positive: [b, K], similarity or distance to each positive, where `valid`; index: [b, K] which references these are.
    K is the largest number of references of one class; where a device would have to wait to know it, K = R.
    negative: [b, R], to the negatives; others are infinitely far or unlike, and so are all to an anchor without label.
    negatives: [b], how many. own, summary: [b] and [R], of the first pass of a loss that takes two.
    """

    positive: Tensor
    valid: Tensor
    index: Tensor
    negative: Tensor
    negatives: Tensor
    own: Tensor | None = None
    summary: Tensor | None = None


class Rows(NamedTuple):
    """What a loss says about a block. value: scalar, the sum of its anchors' losses. positive, negative: [b, K] and
    [b, R], its derivative by `Block.positive` and `Block.negative`, 0 where there is none such. Or `entries`, index and
    derivative, [b, k] each, of the only ones it depends on. counts: int64 [n], added up over blocks."""

    value: Tensor
    positive: Tensor | None = None
    negative: Tensor | None = None
    entries: tuple[Tensor, Tensor] | None = None
    counts: Tensor | None = None


Loss = Callable[[Block], Rows]
Summary = Callable[[Block], Tensor]


@dataclass(frozen=True)
class Sides:
    """labels: [B] of anchors and [R] of references, -1 for none. itself: the references are the anchors."""

    anchors: Tensor
    references: Tensor
    itself: bool

    @classmethod
    def of(cls, labels: Tensor, references: Tensor | None = None) -> "Sides":
        return cls(labels, labels if references is None else references, references is None)

    @property
    def complete(self) -> bool:
        """Whether every label is known; False also where a device would have to wait for the answer."""
        if not readable(self.anchors.device):
            return False
        return min(int(side.min()) if len(side) else 0 for side in (self.anchors, self.references)) >= 0


def readable(device: torch.device) -> bool:
    """Whether numbers can be looked at without a wait for the device."""
    return device.type == "cpu"


class Members:
    """Which references are of an anchor's class: found by sorting labels, not by comparing all with all."""

    def __init__(self, sides: Sides, complete: bool):
        self.sides, self.complete, references = sides, complete, sides.references
        self.known: Tensor | int = len(references) if complete else (references >= 0).sum()
        if not readable(references.device):
            return
        ordered, self.order = references.sort(stable=True)
        self.start = torch.searchsorted(ordered, sides.anchors)
        self.number = torch.searchsorted(ordered, sides.anchors, right=True) - self.start
        if not complete:
            self.number = torch.where(sides.anchors >= 0, self.number, 0)
        self.place = torch.arange(max(int(self.number.max()), 1))

    def of(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """index, valid: [b, K] of the positives, an anchor itself is none. negatives: [b], how many."""
        anchors = self.sides.anchors[rows]
        if readable(anchors.device):
            number = self.number[rows]
            valid = self.place < number[:, None]
            index = self.order[(self.start[rows, None] + self.place).clamp_max_(len(self.order) - 1)]
        else:
            valid = (anchors[:, None] == self.sides.references) & (anchors >= 0)[:, None]
            index = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
            number = valid.sum(1)
        negatives = self.known - number
        if not self.complete:
            negatives = torch.where(anchors >= 0, negatives, 0)
        if self.sides.itself:
            valid &= index != torch.arange(rows.start, rows.stop, device=index.device)[:, None]
        return index, valid, negatives


class Work:
    """The blocks of a loss, and the gradients that they add up to. x: [B, d], references: [R, d], as `measure` has
    prepared them."""

    def __init__(self, measure: Measure, x: Tensor, references: Tensor, sides: Sides):
        self.measure, self.x, self.references, self.sides = measure, x, references, sides
        complete = sides.complete
        self.members = Members(sides, complete)
        self.lengths = measure.lengths(x, references)
        self.penalty = None
        # labels as numbers of x's kind, which compare fastest; one that is missing equals none on the other side
        if complete:
            first = sides.anchors.to(x.dtype)
            self.labels = [first, first if sides.itself else sides.references.to(x.dtype)]
            return
        both = sides.anchors, sides.references
        self.labels = [torch.where(y >= 0, y, missing).to(x.dtype) for y, missing in zip(both, (-1, -2), strict=True)]
        self.penalty = [(labels < 0).to(x.dtype) * measure.far for labels in both]

    def rows(self) -> Iterator[slice]:
        anchors, references = len(self.x), max(len(self.references), 1)
        size = max(BLOCK.get(self.x.device.type, BLOCK_ELSEWHERE) // references, 1)
        return (slice(start, min(start + size, anchors)) for start in range(0, anchors, size))

    def block(self, rows: slice) -> tuple[Block, Tensor]:
        """The block, and the whole matrix [b, R]."""
        matrix = self.measure.matrix(self.x, self.references, rows, self.lengths)
        index, valid, negatives = self.members.of(rows)
        negative = torch.empty_like(matrix)
        torch.eq(self.labels[0][rows, None], self.labels[1], out=negative)  # 1 where the classes are the same
        torch.add(matrix, negative, alpha=self.measure.far, out=negative)
        if self.penalty is not None:
            negative.add_(self.penalty[1]).add_(self.penalty[0][rows, None])
        return Block(matrix.gather(1, index), valid, index, negative, negatives), matrix


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        references: Tensor,
        sides: Sides,
        measure: Measure,
        loss: Loss,
        summary: Summary | None,
        grad: bool,
    ) -> tuple[Tensor, Tensor]:
        work = Work(measure, x, references, sides)
        every = None if summary is None else torch.cat([summary(work.block(rows)[0]) for rows in work.rows()])
        value, counts = x.new_zeros(()), torch.zeros(1, dtype=torch.int64, device=x.device)
        needs = [grad and need for need in ctx.needs_input_grad[:2]]
        sums = (torch.zeros_like(side) for side in (x, references))
        gradients = [total if need else None for total, need in zip(sums, needs, strict=True)]
        if sides.itself:
            gradients[1] = gradients[0]  # one tensor, whose gradient is the sum of both
        for rows in work.rows():
            block, matrix = work.block(rows)
            if every is not None:
                block = block._replace(own=every[rows], summary=every)
            said = loss(block)
            value = value + said.value
            counts = counts if said.counts is None else counts + said.counts
            if any(needs):
                spread(work, rows, block, matrix, said, gradients)
        ctx.gradients = [gradients[0], None if sides.itself else gradients[1]]
        ctx.mark_non_differentiable(counts)
        return value, counts

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # gradients are made with the values: of theirs nothing is known
            raise RuntimeError("losses of pairs have first derivatives alone: leave create_graph out")
        return *(None if g is None else g * slopes[0] for g in ctx.gradients), None, None, None, None, None


def spread(work: Work, rows: slice, block: Block, matrix: Tensor, said: Rows, gradients: list[Tensor | None]) -> None:
    """Add what a block says to the gradients of both sides: few entries one by one, else by matrix products."""
    x, references, measure = work.x, work.references, work.measure
    if said.entries is None:
        slope, index = cast(Tensor, said.negative), block.index
        by_positive = cast(Tensor, said.positive)
    else:
        index, by_positive = said.entries
        if readable(x.device) and FEW * index.shape[1] <= len(references):
            kept = matrix.gather(1, index)
            return measure.spread_entries(x, references, rows, index, kept, by_positive, gradients)
        slope = torch.zeros_like(matrix)
    slope.scatter_add_(1, index, by_positive)
    return measure.spread_matrix(x, references, rows, matrix, slope, gradients)


def summed(
    measure: Measure,
    loss: Loss,
    x: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    summary: Summary | None = None,
) -> tuple[Tensor, Tensor]:
    """Σ of a loss over anchors, with gradient, and its counts [n].

    x: [B, d], labels: [B] of the anchors. references, reference_labels: [R, d], [R]; None: the batch itself. summary:
    a first pass over all blocks, a number for each anchor, which the loss then finds in its block.
    """
    x, references = measure.prepared(x, references)
    sides = Sides.of(labels, reference_labels)
    return cast(
        tuple[Tensor, Tensor],
        _Summed.apply(x, references, sides, measure, loss, summary, torch.is_grad_enabled()),
    )
