"""How alike two embeddings are, [b, R] for a block of anchors, and what gradients by these numbers
mean for them.

Nothing here is recorded by autograd: the derivative of a measure is as short as the measure, and
needs no more memory than its result.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

FAR = 1e30  # in place of infinity, of which sums and products are no numbers
SHORTEST = 1e-12  # as in torch.nn.functional.normalize: a shorter vector is divided by this


def weighted_sums(target: Tensor, source: Tensor, weight: Tensor, x: Tensor, size: int) -> Tensor:
    """[size, d], for each target the sum of the rows of x that are its sources, by weight. target,
    source, weight: [n]. A product with a sparse matrix, whose rows are read once and never copied.
    """
    ordered, order = target.sort()
    starts = torch.searchsorted(ordered, torch.arange(size, device=x.device))
    return embedding_bag(source[order], x, starts, mode="sum", per_sample_weights=weight[order])


class Measure(ABC):
    """far: what stands for a reference that is no negative. rooted: whether `inner` does
    anything."""

    far: ClassVar[float]
    rooted: ClassVar[bool] = False

    @abstractmethod
    def prepared(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Both sides as the matrix is made from them, the same tensor where the anchors are the
        references (None), and a length for each row of each."""

    @abstractmethod
    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: list[Tensor], out: Tensor
    ) -> Tensor:
        """[b, R] in `out`."""

    def inner(self, kept: Tensor, slope: Tensor, apart: bool = False) -> Tensor:
        """The derivative by the matrix, `kept`, as one by what it is the root of, in place of it.
        apart: whether no entry of `kept` is 0."""
        return slope

    @abstractmethod
    def by_blocks(
        self, x: Tensor, references: Tensor, rows: slice, slope: Tensor, into: list[Tensor | None]
    ) -> None:
        """Add to the gradients of anchors and references, None where nobody asks, what `slope` [b,
        R] means."""

    @abstractmethod
    def mirrored(self, x: Tensor, both: Tensor) -> Tensor:
        """The gradient [B, d] of a batch that is both sides. both: [B, B], slope + slopeᵀ, is used
        up."""

    @abstractmethod
    def by_entries(
        self, own: Tensor, other: Tensor, target: Tensor, source: Tensor, slope: Tensor
    ) -> Tensor:
        """Gradient of `own` where the matrix matters at the entries (target of own, source of
        other) alone, each [n]."""

    def outer(self, prepared: Tensor, length: Tensor, gradient: Tensor) -> Tensor:
        """Gradient by what a side was before it was prepared, in place of that by the side."""
        return gradient


class Cosine(Measure):
    """⟨x, r⟩ of unit vectors."""

    far = -FAR

    def prepared(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        sides = [x] if references is None else [x, references]
        lengths = [
            torch.linalg.vector_norm(side, dim=1, keepdim=True).clamp_min_(SHORTEST)
            for side in sides
        ]
        units = [side / length for side, length in zip(sides, lengths, strict=True)]
        return units[0], units[-1], lengths

    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: list[Tensor], out: Tensor
    ) -> Tensor:
        return torch.mm(x[rows], references.T, out=out)

    def by_blocks(
        self, x: Tensor, references: Tensor, rows: slice, slope: Tensor, into: list[Tensor | None]
    ) -> None:
        if into[0] is not None:
            into[0][rows].addmm_(slope, references)
        if into[1] is not None:
            into[1].addmm_(slope.T, x[rows])

    def mirrored(self, x: Tensor, both: Tensor) -> Tensor:
        return both @ x

    def by_entries(
        self, own: Tensor, other: Tensor, target: Tensor, source: Tensor, slope: Tensor
    ) -> Tensor:
        return weighted_sums(target, source, slope, other, len(own))

    def outer(self, prepared: Tensor, length: Tensor, gradient: Tensor) -> Tensor:
        along = torch.linalg.vecdot(gradient, prepared).unsqueeze(
            1
        )  # a unit vector does not move along itself
        return gradient.addcmul_(along, prepared, value=-1).div_(length)


class SquaredDistance(Measure):
    """‖x - r‖², from one matrix product. A common shift changes no distance, and taking the mean
    away keeps the distances of points far from the origin from drowning in the rounding of their
    lengths."""

    far = FAR
    factor = 2  # ∂‖x - r‖² = 2 (x - r)

    def prepared(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        centre = (x if references is None else references).mean(0)
        sides = [x - centre] if references is None else [x - centre, references - centre]
        return sides[0], sides[-1], [torch.linalg.vecdot(side, side) for side in sides]

    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: list[Tensor], out: Tensor
    ) -> Tensor:
        torch.addmm(lengths[-1], x[rows], references.T, alpha=-2, out=out)
        return out.add_(lengths[0][rows, None]).clamp_min_(0)

    def by_blocks(
        self, x: Tensor, references: Tensor, rows: slice, slope: Tensor, into: list[Tensor | None]
    ) -> None:
        factor = self.factor
        if into[0] is not None:
            into[0][rows].addmm_(slope, references, alpha=-factor)
            into[0][rows].addcmul_(slope.sum(1, keepdim=True), x[rows], value=factor)
        if into[1] is not None:
            into[1].addmm_(slope.T, x[rows], alpha=-factor)
            into[1].addcmul_(slope.sum(0)[:, None], references, value=factor)

    def mirrored(self, x: Tensor, both: Tensor) -> Tensor:
        both.diagonal().sub_(both.sum(1))
        return torch.addmm(x, both, x, beta=0, alpha=-self.factor)

    def by_entries(
        self, own: Tensor, other: Tensor, target: Tensor, source: Tensor, slope: Tensor
    ) -> Tensor:
        sums, slope = weighted_sums(target, source, slope, other, len(own)), slope * self.factor
        whole = torch.zeros_like(own[:, 0]).index_add_(0, target, slope)
        return sums.mul_(-self.factor).addcmul_(whole[:, None], own)


class Distance(SquaredDistance):
    """‖x - r‖. Where it is 0 the gradient is 0 too: that of a square root would be infinite."""

    factor = 1  # ∂√q = ∂q / 2√q
    rooted = True

    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: list[Tensor], out: Tensor
    ) -> Tensor:
        return super().matrix(x, references, rows, lengths, out).sqrt_()

    def inner(self, kept: Tensor, slope: Tensor, apart: bool = False) -> Tensor:
        if apart:
            return slope.div_(kept)
        return slope.mul_(kept).div_(kept.square().clamp_min_(torch.finfo(kept.dtype).tiny))
