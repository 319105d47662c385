"""The class tree of hierarchical triplet loss, from class means alone.

Classes whose mean squared distance is below a threshold are one node; thresholds grow from level to
level. Neither all pairs of samples nor the matrix of all pairs of classes is ever made: for unit
vectors

    d(p, q) = mean of ‖x̂_i - x̂_j‖² over i in p, j in q = 2 - 2 ⟨μ_p, μ_q⟩
    s_c     = mean of ‖x̂_i - x̂_j‖² over i ≠ j in c     = 2 n / (n - 1) · (1 - ‖μ_c‖²)

with the means μ of the unit vectors, and the nodes of all levels follow from one walk over classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize as unit_rows

LARGEST = 4.0  # the squared distance of opposite unit vectors


@dataclass(frozen=True)
class ClassMeans:
    """means: float64 [C, d], of the classes' unit vectors; counts: int64 [C], 0 where a class has
    no samples."""

    means: Tensor
    counts: Tensor

    @classmethod
    def of(cls, x: Tensor, labels: Tensor, classes: int) -> "ClassMeans":
        """x: [N, d] of any length, labels: [N], -1 for none."""
        known = labels >= 0
        own = labels[known]
        counts = torch.bincount(own, minlength=classes)
        sums = x.new_zeros(classes, x.shape[1], dtype=torch.float64)
        sums.index_add_(0, own, unit_rows(x[known].double(), dim=1))
        return cls(sums / counts.clamp_min(1)[:, None], counts)

    def spreads(self) -> Tensor:
        """s_c, [C]. A class with one sample has the mean of the others, 0 without any."""
        counts = self.counts.double()
        several = self.counts > 1
        scale = 2 * counts / (counts - 1).clamp_min(1)
        spread = scale * (1 - self.means.square().sum(1)).clamp_min(0)
        mean = (spread * several).sum() / several.sum().clamp_min(1)
        return torch.where(several, spread, mean)

    def base(self) -> Tensor:
        """d_0, the mean of s_c over classes with several samples."""
        several = self.counts > 1
        return (self.spreads() * several).sum() / several.sum().clamp_min(1)


def thresholds(base: Tensor, levels: int) -> Tensor:
    """d_l = d_0 + l (4 - d_0) / L for l = 0 … L, [L + 1]."""
    steps = torch.arange(levels + 1, dtype=base.dtype)
    return base + steps * (LARGEST - base) / levels


def walk(means: Tensor) -> tuple[Tensor, Tensor]:
    """Prim's walk along the minimum spanning tree of the classes: their order, int64 [C], and by
    which distance each was reached, [C], infinite for the first.

    Classes that are linked below a threshold follow each other, each reached below it: Prim leaves
    such a group only when it is complete. One row of distances is in memory at a time.

    means: [C, d].
    """
    count = len(means)
    order = torch.zeros(count, dtype=torch.int64)
    reached = torch.full((count,), torch.inf, dtype=means.dtype)
    distance = torch.full((count,), torch.inf, dtype=means.dtype)
    visited = torch.zeros(count, dtype=torch.bool)
    current = 0
    for place in range(count):
        order[place] = current
        reached[place] = distance[current]
        visited[current] = True
        distance = torch.minimum(distance, 2 - 2 * (means @ means[current]))
        current = int(distance.masked_fill(visited, torch.inf).argmin())
    return order, reached


def nodes(means: Tensor, limits: Tensor) -> Tensor:
    """int64 [C, L + 1]: the node of each class at each level: equal where classes are linked by
    distances below the limits [L + 1]."""
    order, reached = walk(means)
    starts = reached[:, None] >= limits
    found = torch.empty(starts.shape, dtype=torch.int64)
    found[order] = starts.long().cumsum(0)
    return found


def lowest_common_level(first: Tensor, second: Tensor) -> Tensor:
    """H, int64 [n, m]: the lowest level at which classes share a node; the highest level where they
    never do. first, second: nodes [n, L + 1] and [m, L + 1]."""
    levels = first.shape[1]
    # nodes only ever merge: H is at how many levels they differ
    differ = torch.zeros(len(first), len(second), dtype=torch.int64, device=first.device)
    for level in range(levels):
        differ += first[:, None, level] != second[:, level]
    return differ.clamp_max(levels - 1)
