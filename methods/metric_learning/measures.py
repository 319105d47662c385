"""Similarity or distance of every anchor to every reference, [b, R] for a block of anchors, and the
gradients of the embeddings by these numbers.

Nothing here is recorded by autograd: the derivative of a measure is as short as the measure, and
needs no more memory than its result. Below, D is the measure's matrix and W = ∂L/∂D.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

MASKED = 1e30  # stands for infinity, which times 0 or minus itself would be NaN
MIN_NORM = 1e-12  # as in torch.nn.functional.normalize: a shorter vector is divided by this

Lengths = list[Tensor]  # a number for each row of each side: norms, or squared norms


def sparse_product(target: Tensor, source: Tensor, weight: Tensor, x: Tensor, size: int) -> Tensor:
    """S x, [size, d], of the sparse matrix with S[target_k, source_k] = weight_k.

    target, source, weight: [n]. x: [R, d].
    """
    ordered, order = target.sort()
    starts = torch.searchsorted(ordered, torch.arange(size, device=x.device))
    # a bag per target: rows of x are read in place, where an index would copy [n, d] of them
    return embedding_bag(source[order], x, starts, mode="sum", per_sample_weights=weight[order])


class Measure(ABC):
    """D(x, r) of all pairs, and its derivative.

    masked: the entry of a reference that is no negative: infinitely far, or infinitely unlike.
    has_root: whether D is a root, so that its derivative needs D.
    """

    masked: ClassVar[float]
    has_root: ClassVar[bool] = False

    @abstractmethod
    def prepare(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor, Lengths]:
        """Anchors [B, d] and references [R, d] as `matrix` takes them, and their lengths; one
        tensor for both where the references are the anchors (None)."""

    @abstractmethod
    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths, out: Tensor
    ) -> Tensor:
        """D of the anchors `rows` and all references, [b, R], in `out`."""

    def through_root(self, matrix: Tensor, grad: Tensor, nonzero: bool = False) -> Tensor:
        """∂L/∂D', in place of `grad` = ∂L/∂D, where D' is what the gradients below are of: D² for a
        root, without the factor 2. nonzero: whether no entry of D is 0."""
        return grad

    @abstractmethod
    def add_gradients(
        self, x: Tensor, references: Tensor, rows: slice, grad: Tensor, sums: list[Tensor | None]
    ) -> None:
        """Add the gradients of anchors and references to `sums`, None for a side that needs none.
        grad: W of the anchors `rows`, [b, R]."""

    @abstractmethod
    def symmetric_gradient(self, x: Tensor, both: Tensor) -> Tensor:
        """The gradient [B, d] of a batch that is both sides. both: W + Wᵀ, [B, B], is
        overwritten."""

    @abstractmethod
    def entry_gradient(
        self, own: Tensor, other: Tensor, target: Tensor, source: Tensor, grad: Tensor
    ) -> Tensor:
        """The gradient of `own` where W is 0 but for its entries (target of own, source of other).
        target, source, grad: [n]."""

    def through_prepare(self, prepared: Tensor, length: Tensor, grad: Tensor) -> Tensor:
        """The gradient of a side as it came, in place of `grad`, that of the prepared side."""
        return grad


class Cosine(Measure):
    """D = ⟨x, r⟩ / (‖x‖ ‖r‖), in [-1, 1]."""

    masked = -MASKED

    def prepare(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor, Lengths]:
        sides = [x] if references is None else [x, references]
        lengths = []
        units = []
        for side in sides:
            length = torch.linalg.vector_norm(side, dim=1, keepdim=True).clamp_min_(MIN_NORM)
            lengths.append(length)
            units.append(side / length)
        return units[0], units[-1], lengths

    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths, out: Tensor
    ) -> Tensor:
        return torch.mm(x[rows], references.T, out=out)

    def add_gradients(
        self, x: Tensor, references: Tensor, rows: slice, grad: Tensor, sums: list[Tensor | None]
    ) -> None:
        of_anchors, of_references = sums
        if of_anchors is not None:
            of_anchors[rows].addmm_(grad, references)
        if of_references is not None:
            of_references.addmm_(grad.T, x[rows])

    def symmetric_gradient(self, x: Tensor, both: Tensor) -> Tensor:
        return both @ x

    def entry_gradient(
        self, own: Tensor, other: Tensor, target: Tensor, source: Tensor, grad: Tensor
    ) -> Tensor:
        return sparse_product(target, source, grad, other, len(own))

    def through_prepare(self, prepared: Tensor, length: Tensor, grad: Tensor) -> Tensor:
        # of u = x / ‖x‖: ∂L/∂x = (g - ⟨g, u⟩ u) / ‖x‖, as a unit vector does not move along itself
        along = torch.linalg.vecdot(grad, prepared).unsqueeze(1)
        return grad.addcmul_(along, prepared, value=-1).div_(length)


class CosineDistance(Cosine):
    """D = 1 - ⟨x, r⟩ / (‖x‖ ‖r‖), in [0, 2]."""

    masked = MASKED

    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths, out: Tensor
    ) -> Tensor:
        return super().matrix(x, references, rows, lengths, out).neg_().add_(1)

    def through_root(self, matrix: Tensor, grad: Tensor, nonzero: bool = False) -> Tensor:
        return grad.neg_()  # by the cosine, of which the gradients below are


class SquaredDistance(Measure):
    """D = ‖x - r‖² = ‖x‖² + ‖r‖² - 2⟨x, r⟩, at least 0, from one matrix product.

    The mean of the references is taken from both sides first. No distance changes, and those of
    points far from the origin do not drown in the rounding of the squared norms.
    """

    masked = MASKED
    factor = 2  # ∂‖x - r‖²/∂x = 2 (x - r)

    def prepare(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor, Lengths]:
        center = (x if references is None else references).mean(0)
        sides = [x - center]
        if references is not None:
            sides.append(references - center)
        squared_norms = [torch.linalg.vecdot(side, side) for side in sides]
        return sides[0], sides[-1], squared_norms

    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths, out: Tensor
    ) -> Tensor:
        torch.addmm(lengths[-1], x[rows], references.T, alpha=-2, out=out)
        return out.add_(lengths[0][rows, None]).clamp_min_(0)

    def add_gradients(
        self, x: Tensor, references: Tensor, rows: slice, grad: Tensor, sums: list[Tensor | None]
    ) -> None:
        # ∂L/∂x_i = 2 Σ_j W_ij (x_i - r_j) = 2 (Σ_j W_ij) x_i - 2 (W r)_i
        factor = self.factor
        of_anchors, of_references = sums
        if of_anchors is not None:
            of_anchors[rows].addmm_(grad, references, alpha=-factor)
            of_anchors[rows].addcmul_(grad.sum(1, keepdim=True), x[rows], value=factor)
        if of_references is not None:
            of_references.addmm_(grad.T, x[rows], alpha=-factor)
            of_references.addcmul_(grad.sum(0)[:, None], references, value=factor)

    def symmetric_gradient(self, x: Tensor, both: Tensor) -> Tensor:
        # the row sums on the diagonal make both terms one product
        both.diagonal().sub_(both.sum(1))
        return torch.addmm(x, both, x, beta=0, alpha=-self.factor)

    def entry_gradient(
        self, own: Tensor, other: Tensor, target: Tensor, source: Tensor, grad: Tensor
    ) -> Tensor:
        product = sparse_product(target, source, grad, other, len(own))
        row_sums = torch.zeros_like(own[:, 0]).index_add_(0, target, grad * self.factor)
        return product.mul_(-self.factor).addcmul_(row_sums[:, None], own)


class Distance(SquaredDistance):
    """D = ‖x - r‖, at least 0. Where it is 0 its gradient is taken as 0: that of a root is
    infinite."""

    factor = 1  # ∂√q/∂q = 1 / 2√q: the 2 cancels that of the square
    has_root = True

    def matrix(
        self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths, out: Tensor
    ) -> Tensor:
        return super().matrix(x, references, rows, lengths, out).sqrt_()

    def through_root(self, matrix: Tensor, grad: Tensor, nonzero: bool = False) -> Tensor:
        if nonzero:
            return grad.div_(matrix)
        # W / D as W·D / D², which is 0 and not 0/0 where D is 0
        tiny = torch.finfo(matrix.dtype).tiny
        return grad.mul_(matrix).div_(matrix.square().clamp_min_(tiny))
