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


def kmeans_within(x: Tensor, groups: Tensor, k: int, steps: int = 20, seed: int = 0) -> Tensor:
    """int64 [N]: the cluster of each row of x [N, d] by k-means among the rows of its group, all
    groups at once.

    Group g has the clusters g·k … g·k + k - 1; a group with fewer than k different rows leaves some
    without rows. groups: int64 [N], at least 0; rows with -1 are in no cluster, -1. Centers are
    initialized by k-means++, once; all draws follow from the seed. On the host.
    """
    clusters = groups.new_full((len(x),), -1)
    known = (groups >= 0).nonzero().flatten()
    if not len(known):
        return clusters
    x, groups = x[known], groups[known]
    centers = _centers_within(x, groups, k, generator(seed, "kmeans_within"))
    nearest = groups.new_full((len(x),), -1)
    for _ in range(steps):
        before = nearest
        nearest = groups * k + _squared_to_own(x, groups, centers).argmin(1)
        if torch.equal(before, nearest):
            break
        sums = torch.zeros_like(centers).flatten(0, 1).index_add_(0, nearest, x)
        sizes = nearest.bincount(minlength=len(sums))[:, None]
        means = torch.where(sizes > 0, sums / sizes.clamp_min(1), centers.flatten(0, 1))
        centers = means.view_as(centers)
    clusters[known] = nearest
    return clusters


def _squared_to_own(x: Tensor, groups: Tensor, centers: Tensor) -> Tensor:
    """[N, k]: squared distances of rows [N, d] to the centers [G, k, d] of their groups, in blocks
    of rows."""
    rows = max(2**22 // centers[0].numel(), 1)
    blocks = []
    for part, own in zip(x.split(rows), groups.split(rows), strict=True):
        blocks.append((part[:, None] - centers[own]).square().sum(2))
    return torch.cat(blocks)


def _centers_within(x: Tensor, groups: Tensor, k: int, source: torch.Generator) -> Tensor:
    """k-means++ in every group: centers [G, k, d]. Where a group has fewer different rows, each of
    them is a center, and the further centers, zeros, are the nearest of no row.

    A draw with probabilities proportional to p is the smallest of E / p, E exponential: so one pass
    over the rows draws for all groups.
    """
    count = int(groups.max()) + 1
    centers = x.new_zeros(count, k, x.shape[1])
    weights = torch.ones(len(x), dtype=torch.float64)
    squared = torch.full((len(x),), torch.inf, dtype=x.dtype)
    for number in range(k):
        # 1 - u is never 0, so its logarithm is finite
        u = torch.rand(len(x), generator=source, dtype=torch.float64)
        keys = torch.where(weights > 0, -torch.log1p(-u) / weights, torch.inf)
        least = torch.full((count,), torch.inf, dtype=torch.float64)
        least.scatter_reduce_(0, groups, keys, "amin")
        drawn = ((keys == least[groups]) & (weights > 0)).nonzero().flatten()
        centers[groups[drawn], number] = x[drawn]
        from_new = (x - centers[groups, number]).square().sum(1)
        # in a group without a new center the distances are 0 already
        squared = torch.minimum(squared, from_new)
        weights = squared.double()
    return centers
