"""What a loss on pairs sees, and what it returns: a block of anchors against all references.

Every loss of the family is a sum over anchors, of a function of the anchor's row in the matrix of
similarities or distances. So the rows are made block by block, and neither the matrix of all pairs
nor a mask of it is ever whole:

                      references [R]
                 ┌──────────────────────┐
    anchors [b]  │ · p n n p n n n n n  │   p: positive [b, K], gathered: few, so a list with index
                 │ n n · n n p n n n p  │   n: negative [b, R]: nearly all, so the matrix itself, in
                 └──────────────────────┘      which all others (·, p) are masked
        next block, in the same memory …

A loss maps a `Block` to a `BlockLoss`, its value and its derivatives by `positive` and `negative`;
`pair_gradients.sum_over_anchors` turns these into gradients of the embeddings at once. So forward
and backward hold a block, whatever B, and a block stays in the cache. Memory that is used again is
used here: losses on top write formulas.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from foundation import devices
from methods.metric_learning.log_sums import LogSum, log_one_plus_sum_exp, log_sum_exp
from methods.metric_learning.measures import MASKED, Measure
from methods.metric_learning.members import Members, Sides

# numbers of a block: on a CPU what its cache holds, elsewhere enough to keep the device busy
BLOCK = {"cpu": 2**18}
BLOCK_ELSEWHERE = 2**24
# numbers [B, B] up to which the derivatives of all blocks are kept, for one product at the end
WHOLE = {"cpu": 2**20}
# a row has R entries: from R / FEW_ENTRIES on, single ones cost more than a product of all
FEW_ENTRIES = 64
# up to R / FEW_POSITIVES positives are masked one by one; more, by comparing all labels
FEW_POSITIVES = 8


class Block(NamedTuple):
    """Anchors [b] against references [R].

    positive: [b, K], similarity or distance to each positive, where `valid`. K is the size of the
        largest class, or R where the host would have to wait for a device to know it.
    valid: bool [b, K]. positive_index: [b, K], which references the positives are.
    negative: [b, R], to each negative; other references are infinitely far or unlike, as are all
        of an anchor without label. negative_count: [b].
    buffer: gives [b, R] of memory, always the same.
    reusable: whether the sums below may overwrite `negative`, as no gradient needs it later.
    own, summary: [b, …] of these anchors and [R, …] of all, from the first pass of a loss that has
        two.
    rows: which anchors of the batch these are.
    """

    positive: Tensor
    valid: Tensor
    positive_index: Tensor
    negative: Tensor
    negative_count: Tensor
    buffer: Callable[[], Tensor]
    reusable: bool = False
    own: Tensor | None = None
    summary: Tensor | None = None
    rows: slice = slice(0)

    @property
    def has_both(self) -> Tensor:
        """Whether an anchor has a positive and a negative, [b, 1]."""
        return self.valid.any(1, keepdim=True) & (self.negative_count > 0)[:, None]

    def hard_pairs(self, positive_below: Tensor, negative_above: Tensor) -> "Block":
        """The block with only the positives below, and the negatives above a threshold [b, 1]."""
        dropped = torch.le(self.negative, negative_above, out=self.buffer())
        return self._replace(
            valid=self.valid & (self.positive < positive_below),
            negative=self.negative.add_(dropped, alpha=-MASKED),
        )

    def positive_log_sum(
        self, scale: float = 1.0, shift: float = 0.0, plus_one: bool = False
    ) -> LogSum:
        """log Σ_P e^{scale · (s - shift)}, s the `positive`; plus_one: log(1 + Σ_P …)."""
        z = self.positive
        if (scale, shift) != (1.0, 0.0):
            z = (z - shift).mul_(scale)
        z = torch.where(self.valid, z, -MASKED)
        return log_one_plus_sum_exp(z) if plus_one else log_sum_exp(z)

    def negative_log_sum(self, scale: float, shift: float, plus_one: bool = False) -> LogSum:
        """log Σ_N e^{scale · (s - shift)}, s the `negative`; plus_one: log(1 + Σ_N …)."""
        z = self._negative_exponents(scale, shift)
        out = self.buffer() if self.reusable else None
        return log_one_plus_sum_exp(z, out) if plus_one else log_sum_exp(z, out)

    def negative_softmax(self, scale: float, shift: float) -> Tensor:
        """e^{scale · (s - shift)} / Σ_N e^{…}, [b, R]: the share of `negative_log_sum` alone."""
        return torch.softmax(self._negative_exponents(scale, shift), 1)

    def _negative_exponents(self, scale: float, shift: float) -> Tensor:
        out = self.negative if self.reusable else self.buffer()
        if scale == -1:  # one pass over [b, R] in place of two
            return torch.sub(shift, self.negative, out=out)
        return torch.sub(self.negative, shift, out=out).mul_(scale)


class Entries(NamedTuple):
    """Entries of the matrix, [b, k] each: which references, the derivative, the entry itself."""

    reference: Tensor
    grad: Tensor
    matrix: Tensor


class BlockLoss(NamedTuple):
    """The loss of a block and its derivatives.

    value: scalar, the sum of its anchors' losses.
    grad_positive, grad_negative: [b, K] and [b, R], the derivatives by `Block.positive` and
        `Block.negative`, 0 where there is no such pair; or entries, the only ones it depends on.
    counts: int64 [n], added up over blocks.
    active: scalar, 0 only if all derivatives are 0. None: `value` is such a number, as it is where
        no term is negative.
    symmetric: whether a pair has one derivative, whichever of the two is the anchor. Then a batch
        that is both sides needs one product for both gradients.
    """

    value: Tensor
    grad_positive: Tensor | None = None
    grad_negative: Tensor | None = None
    entries: Entries | None = None
    counts: Tensor | None = None
    active: Tensor | None = None
    symmetric: bool = False


Loss = Callable[[Block], BlockLoss]
Summary = Callable[[Block], Tensor]


class Blocks:
    """Makes the blocks of anchors x [B, d] against references [R, d], None for x itself."""

    def __init__(self, measure: Measure, x: Tensor, references: Tensor | None, sides: Sides):
        self.measure = measure
        self.sides = sides
        self.members = Members(sides)
        self.x, self.references, self.lengths = measure.prepare(x, references)
        device = x.device.type
        self.width = len(self.references)
        limit = BLOCK.get(device, BLOCK_ELSEWHERE)
        self.size = min(max(limit // max(self.width, 1), 1), len(x))
        self.keeps_all = sides.same and len(x) * self.width <= WHOLE.get(device, BLOCK_ELSEWHERE)
        self.matrix = x.new_empty(self.size, self.width)
        # behind `buffer`: of one block, or [B, B] where the derivatives of all are kept
        self.memory: Tensor | None = None
        self.views: dict[int, Tensor] = {}
        # of both sides, made when they are first used
        self.labels: list[Tensor] | None = None
        self.penalties: list[Tensor] | None = None
        if not self.members.complete:
            of_labels = (sides.anchors, sides.references)
            self.penalties = [(y < 0).to(x.dtype) * measure.masked for y in of_labels]

    def rows(self) -> Iterator[slice]:
        """Which anchors each block has."""
        for start in range(0, len(self.x), max(self.size, 1)):
            yield slice(start, min(start + self.size, len(self.x)))

    def buffer(self, rows: slice) -> Tensor:
        """[b, R] of memory for these anchors, the same tensor in every call."""
        if self.memory is None:
            shape = 2 * [len(self.x)] if self.keeps_all else self.matrix.shape
            self.memory = self.matrix.new_empty(shape)
        if rows.start not in self.views:
            place = rows if self.keeps_all else slice(rows.stop - rows.start)
            self.views = {rows.start: self.memory[place]}
        return self.views[rows.start]

    def block(self, rows: slice) -> Block:
        """The block of these anchors. It reuses the memory of the previous block."""
        matrix = self.matrix[: rows.stop - rows.start]
        self.measure.matrix(self.x, self.references, rows, self.lengths, matrix)
        index, valid, negative_count = self.members.of(rows)
        positive = matrix.gather(1, index)
        self.mask_class(matrix, positive, index, rows)
        if self.penalties is not None:
            matrix.add_(self.penalties[1]).add_(self.penalties[0][rows, None])
        buffer = partial(self.buffer, rows)
        reusable = not self.measure.has_root
        return Block(positive, valid, index, matrix, negative_count, buffer, reusable, rows=rows)

    def mask_class(self, matrix: Tensor, positive: Tensor, index: Tensor, rows: slice) -> None:
        """Mask the references of an anchor's own class, and the anchor itself."""
        masked = self.measure.masked
        if devices.readable(matrix) and FEW_POSITIVES * index.shape[1] <= matrix.shape[1]:
            same_class = torch.from_numpy(self.members.same_class[rows])
            matrix.scatter_(1, index, torch.where(same_class, masked, positive))
            return
        anchors, references = self.comparable_labels()
        equal = torch.eq(anchors[rows, None], references, out=self.buffer(rows))
        matrix.add_(equal, alpha=masked)

    def comparable_labels(self) -> list[Tensor]:
        """Labels of both sides as numbers of x's dtype, which compare fastest; one that is missing
        equals none of the other side."""
        if self.labels is None:
            of_labels = zip((self.sides.anchors, self.sides.references), (-1, -2), strict=True)
            labels = [torch.where(y >= 0, y, missing) for y, missing in of_labels]
            self.labels = [y.to(self.x.dtype) for y in labels]
        return self.labels

    def few_entries(self, count: int) -> bool:
        """Whether `count` entries of a row cost less one by one than a product of the whole row;
        only on the CPU, where gathering them by index costs nothing to launch."""
        return devices.readable(self.x) and count * FEW_ENTRIES <= self.width
