"""Losses of pairs, a block of anchors at a time: neither the matrix of all pairs nor a mask of it
is ever whole.

Every loss of the family is a sum over anchors of something about an anchor's row of similarities or
distances. `summed` makes a block of rows, asks a loss for its value and its derivative by these
numbers, and turns that into gradients of the embeddings at once. So forward and backward hold a
block, whatever the batch, and a block stays in the cache. Of a small batch the derivatives W are
kept whole: (W + Wᵀ) X is one product where W X + Wᵀ X are two.

Positives of an anchor are few and come as a list, [b, K]; negatives are nearly all others and come
as the matrix, in which whatever is no negative is set infinitely far.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from foundation import devices
from methods.metric_learning.measures import Measure
from methods.metric_learning.members import Members, Sides

# numbers of a block: on a CPU what its cache holds, elsewhere enough to keep the device busy
BLOCK = {"cpu": 2**18}
BLOCK_ELSEWHERE = 2**24
WHOLE = {"cpu": 2**20}  # numbers up to which derivatives of a batch are kept whole
FEW = 64  # share of a row from which single entries cost more than a matrix product
LISTED = (
    8  # share of a row up to which positives are set far one by one, else by comparing all labels
)


class Block(NamedTuple):
    """Anchors [b] against references [R].

    positive: [b, K], similarity or distance to each positive, where `valid`; index: [b, K] which
    references these are. K is the largest number of references of one class; where a device would
    have to wait to know it, K = R. negative: [b, R], to the negatives; others are infinitely far or
    unlike, and so are all to an anchor without label. A loss of cosines may overwrite it; gradients
    of distances need it. negatives: [b], how many. room: gives unused memory, [b, R]. own, summary:
        [b] and [R], of the first pass of a loss that takes two.
    """

    positive: Tensor
    valid: Tensor
    index: Tensor
    negative: Tensor
    negatives: Tensor
    room: Callable[[], Tensor]
    own: Tensor | None = None
    summary: Tensor | None = None


class Entries(NamedTuple):
    """Entries of the matrix, [b, k] each: which references, the derivative, what stands there."""

    index: Tensor
    slope: Tensor
    kept: Tensor


class Rows(NamedTuple):
    """What a loss says about a block. value: scalar, the sum of its anchors' losses. positive,
    negative: [b, K] and [b, R], its derivative by `Block.positive` and `Block.negative`, 0 where
        there is none such. Or `entries`, the only
    ones it depends on. counts: int64 [n], added up over blocks. active: scalar, 0 only if the
    derivative is 0 everywhere; None: `value` is such, as it is wherever no term is negative."""

    value: Tensor
    positive: Tensor | None = None
    negative: Tensor | None = None
    entries: Entries | None = None
    counts: Tensor | None = None
    active: Tensor | None = None


Loss = Callable[[Block], Rows]
Summary = Callable[[Block], Tensor]


class Work:
    """The blocks of a loss, and the gradients that they add up to. x: [B, d], references: [R, d] or
    None for x."""

    def __init__(self, measure: Measure, x: Tensor, references: Tensor | None, sides: Sides):
        self.measure, self.sides, self.members = measure, sides, Members(sides)
        self.x, self.references, self.lengths = measure.prepared(x, references)
        device, width = x.device.type, max(len(self.references), 1)
        self.size = min(max(BLOCK.get(device, BLOCK_ELSEWHERE) // width, 1), len(x))
        self.keep = sides.itself and len(x) * width <= WHOLE.get(device, BLOCK_ELSEWHERE)
        self.matrix = x.new_empty(self.size, len(self.references))
        self.memory: Tensor | None = (
            None  # of `Block.room`: of one block, or of all where they are kept
        )
        self.rooms: dict[int, Tensor] = {}
        self.labels = self.penalty = None
        if not self.members.complete:
            both = sides.anchors, sides.references
            self.penalty = [(labels < 0).to(x.dtype) * measure.far for labels in both]

    def rows(self) -> Iterator[slice]:
        return (
            slice(start, min(start + self.size, len(self.x)))
            for start in range(0, len(self.x), max(self.size, 1))
        )

    def room(self, rows: slice) -> Tensor:
        if self.memory is None:
            self.memory = (
                torch.empty_like(self.matrix)
                if not self.keep
                else self.matrix.new_empty(2 * [len(self.x)])
            )
        if rows.start not in self.rooms:
            self.rooms = {
                rows.start: self.memory[rows]
                if self.keep
                else self.memory[: rows.stop - rows.start]
            }
        return self.rooms[rows.start]

    def block(self, rows: slice) -> Block:
        matrix = self.matrix[: rows.stop - rows.start]
        self.measure.matrix(self.x, self.references, rows, self.lengths, matrix)
        index, valid, negatives = self.members.of(rows)
        positive = matrix.gather(1, index)
        if devices.readable(matrix) and LISTED * index.shape[1] <= matrix.shape[1]:
            same = torch.from_numpy(self.members.same[rows])
            matrix.scatter_(1, index, torch.where(same, self.measure.far, positive))
        else:
            same = torch.eq(
                *self.compared(rows), out=self.room(rows)
            )  # 1 where the classes are the same
            matrix.add_(same, alpha=self.measure.far)
        if self.penalty is not None:
            matrix.add_(self.penalty[1]).add_(self.penalty[0][rows, None])
        return Block(positive, valid, index, matrix, negatives, partial(self.room, rows))

    def compared(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Labels as numbers of x's kind, which compare fastest; one that is missing equals none on
        the other side."""
        if self.labels is None:
            both = zip((self.sides.anchors, self.sides.references), (-1, -2), strict=True)
            self.labels = [torch.where(y >= 0, y, missing).to(self.x.dtype) for y, missing in both]
        return self.labels[0][rows, None], self.labels[1]


class Gradients:
    """What blocks say, added up to gradients of both sides; of one that is both, one."""

    def __init__(self, work: Work, needs: list[bool]):
        self.work, self.needs = work, [any(needs)] if work.sides.itself else needs
        self.entries: list[
            tuple[Tensor, Tensor, Tensor]
        ] = []  # anchor, reference, derivative, [n] each
        self.sums: list[Tensor | None] = []  # of blocks, once there is one
        self.kept = False  # whether the derivatives are kept whole

    def add(self, rows: slice, block: Block, said: Rows) -> None:
        work, width = self.work, block.negative.shape[1]
        seen = devices.readable(block.negative)
        if seen and not float(said.value if said.active is None else said.active):
            if work.keep:
                work.room(rows).zero_()
            return
        if said.entries is not None:
            index, slope, kept = said.entries
            slope = work.measure.inner(kept, slope)
            if seen and index.shape[1] * FEW <= width:
                anchors = torch.arange(rows.start, rows.stop)[:, None].expand(index.shape)
                self.entries.append((anchors.flatten(), index.flatten(), slope.flatten()))
                return
            slope = work.room(rows).zero_().scatter_add_(1, index, slope)
        else:
            negative, positive = cast(Tensor, said.negative), cast(Tensor, said.positive)
            apart = seen and work.measure.rooted and float(block.negative.amin()) > 0
            slope = work.measure.inner(block.negative, negative, apart)
            slope.scatter_add_(1, block.index, work.measure.inner(block.positive, positive))
        self.spread(rows, slope)

    def spread(self, rows: slice, slope: Tensor) -> None:
        """Add what derivatives [b, R] mean, or keep them."""
        work = self.work
        if work.keep:
            self.kept = True
            if slope is not work.room(rows):
                work.room(rows).copy_(slope)
            return
        if not self.sums:
            self.sums = self.zeros()
        work.measure.by_blocks(work.x, work.references, rows, slope, [self.sums[0], self.sums[-1]])

    def zeros(self) -> list[Tensor | None]:
        sides = (self.work.x, self.work.references)
        return [
            torch.zeros_like(side) if need else None
            for side, need in zip(sides, self.needs, strict=False)
        ]

    def whole(self) -> list[Tensor | None]:
        """By the embeddings as they came; None for a side that needs none, and for references that
        are the anchors."""
        work = self.work
        sides, found = [work.x, work.references], self.sums
        if self.entries:
            found = self.of_entries()
        elif self.kept and self.needs[0]:
            found = [self.mirrored()]
        elif not found:
            found = self.zeros()
        outer = work.measure.outer
        whole = [
            g if g is None else outer(*of, g)
            for *of, g in zip(sides, work.lengths, found, strict=False)
        ]
        return whole if len(whole) == 2 else [*whole, None]

    def mirrored(self) -> Tensor:
        """(W + Wᵀ) X in place of W X + Wᵀ X."""
        work, derivatives = self.work, cast(Tensor, self.work.memory)
        both = work.matrix if work.size == len(work.x) else torch.empty_like(derivatives)
        both.copy_(derivatives.T).add_(
            derivatives
        )  # the copy goes tile by tile, which a sum of the two does not
        return work.measure.mirrored(work.x, both)

    def of_entries(self) -> list[Tensor | None]:
        work = self.work
        anchor, reference, slope = (torch.cat(parts) for parts in zip(*self.entries, strict=True))
        if work.sides.itself:
            both = torch.cat([anchor, reference]), torch.cat([reference, anchor])
            return [work.measure.by_entries(work.x, work.x, *both, slope.repeat(2))]
        sides = (
            (work.x, work.references, anchor, reference),
            (work.references, work.x, reference, anchor),
        )
        both = zip(sides, self.needs, strict=True)
        return [work.measure.by_entries(*side, slope) if need else None for side, need in both]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        references: Tensor | None,
        sides: Sides,
        measure: Measure,
        loss: Loss,
        summary: Summary | None,
        grad: bool,
    ) -> tuple[Tensor, Tensor]:
        work = Work(measure, x, references, sides)
        needs = [grad and need for need in ctx.needs_input_grad[:2]]
        gradients, said = Gradients(work, needs), []
        first = (
            work.block(slice(0, len(x))) if summary is not None and work.size == len(x) else None
        )
        if summary is not None:
            every = torch.cat([summary(first or work.block(rows)) for rows in work.rows()])
        for rows in work.rows():
            block = first or work.block(rows)
            if summary is not None:
                block = block._replace(own=every[rows], summary=every)
            said.append(loss(block))
            if any(needs):
                gradients.add(rows, block, said[-1])
            said[-1] = Rows(said[-1].value, counts=said[-1].counts)
        ctx.gradients = gradients.whole() if any(needs) else [None, None]
        value = total([one.value for one in said], x)
        counts = total([one.counts for one in said if one.counts is not None], sides.anchors)
        ctx.mark_non_differentiable(counts)
        return value, counts

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        if (
            torch.is_grad_enabled()
        ):  # gradients are made with the values: of theirs nothing is known
            raise RuntimeError(
                "losses of pairs have first derivatives alone: leave create_graph out"
            )
        return (
            *(None if g is None else g * slopes[0] for g in ctx.gradients),
            None,
            None,
            None,
            None,
            None,
        )


def total(parts: list[Tensor], like: Tensor) -> Tensor:
    return sum(parts[1:], parts[0]) if parts else like.new_zeros(())


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

    x: [B, d], labels: [B] of the anchors. references, reference_labels: [R, d], [R]; None: the
    batch itself. summary: a first pass over all blocks, a number for each anchor, which the loss
    then finds in its block; it leaves the block as it is.
    """
    sides = Sides.of(labels, reference_labels)
    return cast(
        tuple[Tensor, Tensor],
        _Summed.apply(x, references, sides, measure, loss, summary, torch.is_grad_enabled()),
    )
