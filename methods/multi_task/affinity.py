"""Which tasks find the same samples difficult, and the branches that follow from it.

The mathematics of fully-adaptive feature sharing (Lu et al., CVPR 2017): affinity of tasks,
affinity of branches, and the number and members of the branches of one stage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.services.clustering import kmeans

EXHAUSTIVE = 8  # branches up to which all of the 4140 or fewer partitions are tried
RESTARTS = 5  # of k-means, the best of which counts
EQUAL = 1e-9  # costs that differ less are equal: then fewer branches, then the first partition

Clusters = list[list[int]]


# -- tasks -----------------------------------------------------------------------------------------
def margins(logits: Tensor, target: Tensor) -> Tensor:
    """e = 1 - p(true class), [N], for hard targets [N] or soft ones [N, C]; of a binary task it is
    |label - predicted probability|. -1 is no label, and gives any number."""
    p = logits.float().softmax(1)
    if target.ndim == 2:
        return 1 - (p * target).sum(1)
    return 1 - p.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1)


def labeled(target: Tensor) -> Tensor:
    """Which samples have a label, booleans [N]; target: as in `margins`."""
    return target.sum(1) > 0 if target.ndim == 2 else target >= 0


def agreement(e: Tensor, means: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(samples that are difficult for both tasks or for neither, samples with both labels), each
    [T, T]. A sample is difficult for task t if e_t ≥ μ_t. e, known: [N, T]; means: [T]."""
    seen = known.to(e.dtype)
    difficult = (e >= means).to(e.dtype) * seen
    easy = seen - difficult
    return difficult.T @ difficult + easy.T @ easy, seen.T @ seen


def decayed(
    value: Tensor, total: Tensor, new: Tensor, known: Tensor, decay: float
) -> tuple[Tensor, Tensor]:
    """The running mean and its weight: W ← λ W + 1, v ← (λ W_old v + new) / W; both stay as they
    are where nothing is known."""
    weight = decay * total + 1
    mean = (decay * total * value + new) / weight
    return torch.where(known, mean, value), torch.where(known, weight, total)


# -- branches --------------------------------------------------------------------------------------
def branch_affinity(affinity: Tensor, branches: Sequence[Sequence[int]]) -> Tensor:
    """A'(a, b) = mean over t in a of min over s in b of A(t, s), and the mean of A' and its
    transpose. affinity: [T, T]. branches: tasks of each."""
    rows = []
    for a in branches:
        nearest = [affinity[list(a)][:, list(b)].amin(1).mean() for b in branches]
        rows.append(torch.stack(nearest))
    directed = torch.stack(rows)
    return (directed + directed.T) / 2


def separation(affinity: Tensor, clusters: Clusters) -> float:
    """Mean over clusters of 1 - mean over i of min over j of A'(i, j), i and j in the cluster."""
    costs = []
    for cluster in clusters:
        inside = affinity[cluster][:, cluster]
        costs.append(1 - float(inside.amin(1).mean()))
    return sum(costs) / len(costs)


@dataclass(frozen=True)
class Choice:
    """clusters: of branches. cost: of it. by_count: the lowest cost for each number of clusters."""

    clusters: Clusters
    cost: float
    by_count: dict[int, float]


def choose(affinity: Tensor, price: float, alpha: float, most: int, seed: int = 0) -> Choice:
    """The clusters with the lowest cost (d - 1) · price + α · separation, at most `most` of them.

    affinity: of branches, [b, b]. Up to eight branches all partitions are tried; of more, those of
    spectral clustering.
    """
    affinity = affinity.double()
    best: dict[int, tuple[float, Clusters]] = {}
    for clusters in candidates(affinity, most, seed):
        cost = (len(clusters) - 1) * price + alpha * separation(affinity, clusters)
        known = best.get(len(clusters))
        if known is None or cost < known[0] - EQUAL:
            best[len(clusters)] = (cost, clusters)
    by_count = {count: best[count][0] for count in sorted(best)}
    lowest = min(by_count.values())
    count = next(d for d, cost in by_count.items() if cost <= lowest + EQUAL)
    return Choice(best[count][1], best[count][0], by_count)


def candidates(affinity: Tensor, most: int, seed: int) -> Iterator[Clusters]:
    """Partitions of the branches into at most `most` clusters."""
    count = len(affinity)
    if count <= EXHAUSTIVE:
        for clusters in partitions(count):
            if len(clusters) <= most:
                yield clusters
        return
    yield [list(range(count))]
    for d in range(2, min(most, count - 1) + 1):
        yield spectral(affinity, d, seed)
    if most >= count:
        yield [[i] for i in range(count)]


def partitions(count: int) -> Iterator[Clusters]:
    """All partitions of 0 … count - 1; members and clusters in order."""
    if count == 0:
        yield []
        return
    for smaller in partitions(count - 1):
        for i in range(len(smaller)):
            yield [*smaller[:i], [*smaller[i], count - 1], *smaller[i + 1 :]]
        yield [*smaller, [count - 1]]


def spectral(affinity: Tensor, count: int, seed: int) -> Clusters:
    """Normalised spectral clustering (Ng, Jordan and Weiss, NeurIPS 2001) into `count` clusters or
    fewer: k-means of the rows of the leading eigenvectors of D^-½ A D^-½, scaled to length one."""
    scale = affinity.sum(1).clamp_min(1e-12).rsqrt()
    vectors = torch.linalg.eigh(scale[:, None] * affinity * scale[None, :]).eigenvectors
    rows = vectors[:, -count:]
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    labels = kmeans(rows, count, restarts=RESTARTS, seed=seed).tolist()
    clusters: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        clusters.setdefault(label, []).append(i)
    return sorted(clusters.values())
