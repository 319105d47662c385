"""Losses on pairs, summed over blocks of anchors, with their gradients.

Trick: the gradients of the embeddings are made block by block together with the values, in the
forward, so that no block has to be kept or made again for the backward, which only multiplies them.
A loss gives W = ∂L/∂D of a block by hand (`blocks.BlockLoss`), a measure turns it into gradients
(`measures.Measure.add_gradients`). Of a batch that is both sides and small, W is kept whole:
(W + Wᵀ) X is one product where W X + Wᵀ X are two.
"""

from typing import Any, cast

import torch
from torch import Tensor

from foundation import devices
from methods.metric_learning.blocks import Block, BlockLoss, Blocks, Loss, Summary
from methods.metric_learning.measures import Measure
from methods.metric_learning.members import Sides

Sum = list[Tensor | None]  # the gradients of both sides, or the one of a batch that is both


class PairGradients:
    """Adds up the gradients of both sides; those of a batch that is both sides as one.

    needs: whether anchors, and references, need a gradient.
    """

    def __init__(self, blocks: Blocks, needs: list[bool]):
        self.blocks = blocks
        self.needs = [any(needs)] if blocks.sides.same else needs
        self.entries: list[tuple[Tensor, Tensor, Tensor]] = []  # anchor, reference, W: [n] each
        self.sums: Sum = []  # of the blocks so far; empty before the first
        self.kept = False  # whether W of any block is kept
        # whether the sums are of anchors alone, as those of references equal them
        self.halved = False

    def add(self, rows: slice, block: Block, loss: BlockLoss) -> None:
        if self.is_zero(loss):
            if self.blocks.keeps_all:
                # never written, and read with the others in the end
                self.blocks.buffer(rows).zero_()
            return
        if loss.entries is None:
            self.add_matrix(rows, self.full_matrix(block, loss), loss.symmetric)
            return
        index, grad, matrix = loss.entries
        grad = self.blocks.measure.through_root(matrix, grad)
        if self.blocks.few_entries(index.shape[1]):
            anchors = torch.arange(rows.start, rows.stop)[:, None].expand(index.shape)
            self.entries.append((anchors.flatten(), index.flatten(), grad.flatten()))
            return
        self.add_matrix(rows, self.blocks.buffer(rows).zero_().scatter_add_(1, index, grad))

    def is_zero(self, loss: BlockLoss) -> bool:
        """Whether no derivative is other than 0, as far as the host sees it without waiting."""
        active = loss.value if loss.active is None else loss.active
        return devices.readable(active) and not float(active)

    def full_matrix(self, block: Block, loss: BlockLoss) -> Tensor:
        """W, [b, R], in the memory of `grad_negative`."""
        measure = self.blocks.measure
        grad_positive = cast(Tensor, loss.grad_positive)
        grad_negative = cast(Tensor, loss.grad_negative)
        # masked entries are far from 0, so duplicates alone make the division by D unsafe
        nonzero = measure.has_root and devices.readable(block.negative)
        nonzero = nonzero and float(block.negative.amin()) > 0
        grad = measure.through_root(block.negative, grad_negative, nonzero)
        grad_positive = measure.through_root(block.positive, grad_positive)
        return grad.scatter_add_(1, block.positive_index, grad_positive)

    def add_matrix(self, rows: slice, grad: Tensor, symmetric: bool = False) -> None:
        """Add the gradients that W of a block means, or keep W."""
        blocks = self.blocks
        if blocks.keeps_all:
            self.kept = True
            buffer = blocks.buffer(rows)
            if grad is not buffer:
                buffer.copy_(grad)
            return
        if not self.sums:
            self.sums = self.zeros()
        self.halved = symmetric and blocks.sides.same
        sums = [self.sums[0], None if self.halved else self.sums[-1]]
        blocks.measure.add_gradients(blocks.x, blocks.references, rows, grad, sums)

    def zeros(self) -> Sum:
        sums: Sum = []
        for side, need in zip((self.blocks.x, self.blocks.references), self.needs, strict=False):
            sums.append(torch.zeros_like(side) if need else None)
        return sums

    def gradients(self) -> list[Tensor | None]:
        """Of anchors and references, by the embeddings as they came; None for a side that needs
        none, and for references that are the anchors."""
        blocks = self.blocks
        sums = self.total()
        gradients: list[Tensor | None] = [None, None]
        sides = zip((blocks.x, blocks.references), blocks.lengths, sums, strict=False)
        for i, (side, length, total) in enumerate(sides):
            if total is not None:
                gradients[i] = blocks.measure.through_prepare(side, length, total)
        return gradients

    def total(self) -> Sum:
        if self.entries:
            return self.entry_gradients()
        if self.kept and self.needs[0]:
            return [self.symmetric_gradient()]
        if self.halved:
            return [None if half is None else half.mul_(2) for half in self.sums]
        return self.sums or self.zeros()

    def symmetric_gradient(self) -> Tensor:
        """(W + Wᵀ) X in place of W X + Wᵀ X."""
        blocks = self.blocks
        grad = cast(Tensor, blocks.memory)
        has_one_block = blocks.size == len(blocks.x)
        both = blocks.matrix if has_one_block else torch.empty_like(grad)
        # a copy transposes tile by tile, which the sum of the two would not
        both.copy_(grad.T).add_(grad)
        return blocks.measure.symmetric_gradient(blocks.x, both)

    def entry_gradients(self) -> Sum:
        measure = self.blocks.measure
        x = self.blocks.x
        references = self.blocks.references
        anchor, reference, grad = (torch.cat(parts) for parts in zip(*self.entries, strict=True))
        if self.blocks.sides.same:
            target = torch.cat([anchor, reference])
            source = torch.cat([reference, anchor])
            return [measure.entry_gradient(x, x, target, source, grad.repeat(2))]
        sums: Sum = [None, None]
        if self.needs[0]:
            sums[0] = measure.entry_gradient(x, references, anchor, reference, grad)
        if self.needs[1]:
            sums[1] = measure.entry_gradient(references, x, reference, anchor, grad)
        return sums


def run_blocks(
    blocks: Blocks, loss: Loss, summary: Summary | None, needs: list[bool]
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """Values and counts of all blocks, and the gradients of both sides, None where none is
    needed."""
    pair_gradients = PairGradients(blocks, needs)
    values: list[Tensor] = []
    counts: list[Tensor] = []
    only: Block | None = None  # where there is but one, the second pass takes that of the first
    if summary is not None:
        if blocks.size == len(blocks.x):
            only = blocks.block(slice(0, len(blocks.x)))
        of_blocks = [summary(only or blocks.block(rows)) for rows in blocks.rows()]
        of_all = torch.cat(of_blocks)
    for rows in blocks.rows():
        block = only or blocks.block(rows)
        if summary is not None:
            block = block._replace(own=of_all[rows], summary=of_all)
        block_loss = loss(block)
        if any(needs):
            pair_gradients.add(rows, block, block_loss)
        values.append(block_loss.value)
        if block_loss.counts is not None:
            counts.append(block_loss.counts)
        del block_loss  # its derivatives are as large as the block that comes next
    return values, counts, pair_gradients.gradients() if any(needs) else [None, None]


class _SumOverAnchors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        references: Tensor | None,
        sides: Sides,
        measure: Measure,
        loss: Loss,
        summary: Summary | None,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        needs = [grad_enabled and need for need in ctx.needs_input_grad[:2]]
        blocks = Blocks(measure, x, references, sides)
        values, counts, ctx.gradients = run_blocks(blocks, loss, summary, needs)
        count = total(counts, sides.anchors)
        ctx.mark_non_differentiable(count)
        return total(values, x), count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        # gradients are made with the values, without a graph of their own
        if torch.is_grad_enabled():
            raise RuntimeError(
                "losses of pairs have first derivatives alone: leave create_graph out"
            )
        of_anchors, of_references = (g if g is None else g * grad_outputs[0] for g in ctx.gradients)
        return of_anchors, of_references, None, None, None, None, None


def total(parts: list[Tensor], like: Tensor) -> Tensor:
    return sum(parts[1:], parts[0]) if parts else like.new_zeros(())


def sum_over_anchors(
    measure: Measure,
    loss: Loss,
    x: Tensor,
    labels: Tensor,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    summary: Summary | None = None,
) -> tuple[Tensor, Tensor]:
    """Σ of a loss over anchors, a scalar with gradient, and the sum of its counts, int64 [n].

    x: [B, d], labels: [B] of the anchors, -1 for none. references, reference_labels: [R, d], [R];
    None: the batch itself. summary: a first pass over all blocks, [b, …] for its anchors, which the
    loss then finds in its block; it may not change the block.
    """
    sides = Sides.of(labels, reference_labels)
    value_and_counts = _SumOverAnchors.apply(
        x, references, sides, measure, loss, summary, torch.is_grad_enabled()
    )
    return cast(tuple[Tensor, Tensor], value_and_counts)
