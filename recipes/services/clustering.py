"""k-means, and how well its clusters agree with classes."""

import torch
from torch import Tensor

from foundation.randomness import generator


def normalized_mutual_information(labels: Tensor, clusters: Tensor) -> Tensor:
    """NMI = 2 I(y; c) / (H(y) + H(c)) in [0, 1], 1 where both are the same partition. Both int64
    [N], from 0 on."""
    joint = torch.zeros(
        int(labels.max()) + 1, int(clusters.max()) + 1, dtype=torch.float64, device=labels.device
    )
    joint.index_put_((labels, clusters), joint.new_ones(()), accumulate=True)
    joint /= len(labels)

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p).sum()

    of_labels, of_clusters = entropy(joint.sum(1)), entropy(joint.sum(0))
    total = of_labels + of_clusters
    # one class in one cluster: nothing to tell, and told
    return torch.where(total > 0, 2 * (total - entropy(joint)) / total.clamp_min(1e-12), 1.0)


def kmeans(x: Tensor, k: int, restarts: int = 1, steps: int = 100, seed: int = 0) -> Tensor:
    """int64 [N]: the cluster of each row of x [N, d], of the best of several runs of Lloyd's
    algorithm.

    The centres start by k-means++; an empty cluster keeps its centre. Drawn from the seed alone.
    """
    best, lowest = torch.zeros(len(x), dtype=torch.int64, device=x.device), float("inf")
    for restart in range(restarts):
        centres = _spread(x, min(k, len(x)), generator(seed, "kmeans", restart))
        clusters = best.new_full((len(x),), -1)
        for _ in range(steps):
            squared, nearest = _nearest(x, centres)
            if torch.equal(nearest, clusters):
                break
            clusters = nearest
            sums = torch.zeros_like(centres).index_add_(0, clusters, x)
            sizes = clusters.bincount(minlength=len(centres))[:, None]
            centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
        inertia = float(squared.sum())
        if inertia < lowest:
            best, lowest = clusters, inertia
    return best


def _nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest centre, and which it is; a block of rows at a time."""
    lengths, found = centres.square().sum(1), []
    for rows in x.split(max(2**22 // len(centres), 1)):
        found.append((lengths - 2 * rows @ centres.T).min(1))
    squared = torch.cat([f.values for f in found]) + x.square().sum(1)
    return squared.clamp_min(0), torch.cat([f.indices for f in found])


def _spread(x: Tensor, k: int, source: torch.Generator) -> Tensor:
    """k-means++: each further centre is a row drawn with the square of its distance to the nearest
    one so far."""
    chosen = [int(torch.randint(len(x), (1,), generator=source))]
    squared = (x - x[chosen[0]]).square().sum(1)
    for draw in torch.rand(k - 1, generator=source, dtype=torch.float64).tolist():
        mass = squared.double().cumsum(0)
        chosen.append(min(int(torch.searchsorted(mass, mass[-1] * draw, right=True)), len(x) - 1))
        squared = torch.minimum(squared, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen]
