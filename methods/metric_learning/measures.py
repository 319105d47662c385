"""How alike two embeddings are, [b, R] for a block of anchors, and what gradients by these numbers mean for them."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

FAR = 1e30  # in place of infinity, of which sums and products are no numbers

Lengths = tuple[Tensor, Tensor]
Gradients = list[Tensor | None]  # of anchors and of references; None where nobody asks


class Measure(ABC):
    """far: what stands for a reference that is no negative."""

    far: ClassVar[float]

    @abstractmethod
    def prepared(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both sides as the matrix is made from them, with gradient; None: the anchors are the references."""

    def lengths(self, x: Tensor, references: Tensor) -> Lengths | None:
        return None

    @abstractmethod
    def matrix(self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths | None) -> Tensor: ...

    @abstractmethod
    def spread_matrix(
        self, x: Tensor, references: Tensor, rows: slice, kept: Tensor, slope: Tensor, into: Gradients
    ) -> None:
        """Add the gradients that `slope` [b, R], by the matrix `kept`, means."""

    @abstractmethod
    def spread_entries(
        self, x: Tensor, references: Tensor, rows: slice, index: Tensor, kept: Tensor, slope: Tensor, into: Gradients
    ) -> None:
        """The same for the entries `index` [b, k] of each row alone."""


class Cosine(Measure):
    """⟨x, r⟩ of unit vectors."""

    far = -FAR

    def prepared(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor]:
        unit = normalize(x, dim=1)
        return unit, unit if references is None else normalize(references, dim=1)

    def matrix(self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths | None) -> Tensor:
        return x[rows] @ references.T

    def spread_matrix(
        self, x: Tensor, references: Tensor, rows: slice, kept: Tensor, slope: Tensor, into: Gradients
    ) -> None:
        if into[0] is not None:
            into[0][rows].addmm_(slope, references)
        if into[1] is not None:
            into[1].addmm_(slope.T, x[rows])

    def spread_entries(
        self, x: Tensor, references: Tensor, rows: slice, index: Tensor, kept: Tensor, slope: Tensor, into: Gradients
    ) -> None:
        if into[0] is not None:
            into[0][rows] += torch.einsum("bk,bkd->bd", slope, references[index])
        if into[1] is not None:
            into[1].index_add_(0, index.flatten(), (slope[..., None] * x[rows, None]).flatten(0, 1))


class SquaredDistance(Measure):
    """‖x - r‖², from one matrix product. A common shift changes no distance, and taking the mean away keeps the
    distances of points far from the origin from drowning in the rounding of their lengths."""

    far = FAR

    def prepared(self, x: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor]:
        if references is None:
            centred = x - x.detach().mean(0)
            return centred, centred
        centre = references.detach().mean(0)
        return x - centre, references - centre

    def lengths(self, x: Tensor, references: Tensor) -> Lengths:
        of_x = x.square().sum(1)
        return of_x, of_x if references is x else references.square().sum(1)

    def matrix(self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths | None) -> Tensor:
        assert lengths is not None
        squared = torch.addmm(lengths[1], x[rows], references.T, alpha=-2)
        return squared.add_(lengths[0][rows, None]).clamp_min_(0)

    def spread_matrix(
        self, x: Tensor, references: Tensor, rows: slice, kept: Tensor, slope: Tensor, into: Gradients
    ) -> None:
        slope = self.by_squared(kept, slope)
        if into[0] is not None:  # ∂‖x - r‖² = 2 (x - r)
            into[0][rows].addmm_(slope, references, alpha=-2).addcmul_(slope.sum(1, keepdim=True), x[rows], value=2)
        if into[1] is not None:
            into[1].addmm_(slope.T, x[rows], alpha=-2).addcmul_(slope.sum(0)[:, None], references, value=2)

    def spread_entries(
        self, x: Tensor, references: Tensor, rows: slice, index: Tensor, kept: Tensor, slope: Tensor, into: Gradients
    ) -> None:
        apart = (x[rows, None] - references[index]) * (2 * self.by_squared(kept, slope))[..., None]
        if into[0] is not None:
            into[0][rows] += apart.sum(1)
        if into[1] is not None:
            into[1].index_add_(0, index.flatten(), apart.flatten(0, 1), alpha=-1)

    def by_squared(self, kept: Tensor, slope: Tensor) -> Tensor:
        """The derivative by the squared distance."""
        return slope


class Distance(SquaredDistance):
    """‖x - r‖. Where it is 0 the gradient is 0 too: that of a square root would be infinite."""

    def matrix(self, x: Tensor, references: Tensor, rows: slice, lengths: Lengths | None) -> Tensor:
        return super().matrix(x, references, rows, lengths).sqrt_()

    def by_squared(self, kept: Tensor, slope: Tensor) -> Tensor:
        # slope / 2d, written so that it is 0 where d is
        return (kept / kept.square().clamp_min_(torch.finfo(kept.dtype).tiny)).mul_(slope).mul_(0.5)
