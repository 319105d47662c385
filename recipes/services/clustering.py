"""k-means, and the agreement of clusters with classes."""

import torch
from torch import Tensor

from foundation.randomness import generator


def normalized_mutual_information(labels: Tensor, clusters: Tensor) -> Tensor:
    """NMI = 2 I(y; c) / (H(y) + H(c)) in [0, 1], 1 if both are the same partition. Both int64 [N],
    starting at 0."""
    joint = torch.zeros(
        int(labels.max()) + 1, int(clusters.max()) + 1, dtype=torch.float64, device=labels.device
    )
    joint.index_put_((labels, clusters), joint.new_ones(()), accumulate=True)
    joint /= len(labels)

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p).sum()

    total = entropy(joint.sum(1)) + entropy(joint.sum(0))
    # one class in one cluster: both entropies are 0, and the partitions are equal
    return torch.where(total > 0, 2 * (total - entropy(joint)) / total.clamp_min(1e-12), 1.0)


def kmeans(x: Tensor, k: int, restarts: int = 1, steps: int = 100, seed: int = 0) -> Tensor:
    """int64 [N]: the cluster of each row of x [N, d], from the best of several runs of Lloyd's
    algorithm.

    Centers are initialized by k-means++; an empty cluster keeps its center. All draws follow from
    the seed.
    """
    best = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    lowest = float("inf")
    for restart in range(restarts):
        centers = _initial_centers(x, min(k, len(x)), generator(seed, "kmeans", restart))
        clusters = best.new_full((len(x),), -1)
        for _ in range(steps):
            squared, nearest = _nearest(x, centers)
            if torch.equal(nearest, clusters):
                break
            clusters = nearest
            sums = torch.zeros_like(centers).index_add_(0, clusters, x)
            sizes = clusters.bincount(minlength=len(centers))[:, None]
            centers = torch.where(sizes > 0, sums / sizes.clamp_min(1), centers)
        inertia = float(squared.sum())
        if inertia < lowest:
            best = clusters
            lowest = inertia
    return best


def _nearest(x: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest center, and its index; in blocks of rows."""
    squared_norms = centers.square().sum(1)
    minima = []
    for rows in x.split(max(2**22 // len(centers), 1)):
        minima.append((squared_norms - 2 * rows @ centers.T).min(1))
    squared = torch.cat([block.values for block in minima]) + x.square().sum(1)
    # rounding can make the square of a small distance negative
    return squared.clamp_min(0), torch.cat([block.indices for block in minima])


def _initial_centers(x: Tensor, k: int, source: torch.Generator) -> Tensor:
    """k-means++: each further center is a row, drawn with a probability proportional to its squared
    distance to the nearest center so far."""
    chosen = [int(torch.randint(len(x), (1,), generator=source))]
    squared = (x - x[chosen[0]]).square().sum(1)
    for draw in torch.rand(k - 1, generator=source, dtype=torch.float64).tolist():
        mass = squared.double().cumsum(0)
        chosen.append(min(int(torch.searchsorted(mass, mass[-1] * draw, right=True)), len(x) - 1))
        squared = torch.minimum(squared, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]
