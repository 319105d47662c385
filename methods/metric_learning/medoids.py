"""Medoids of a batch: the samples that stand for clusters, chosen so that distances to them are
small and, with a weight, clusters and classes disagree.

    score(S) = -Σ_i min_{j in S} D_ij + γ (1 - NMI(classes, clusters of S))

All candidates for one place are tried at once. A candidate takes over the samples that are nearer
to it than to the other medoids, so counts of classes in clusters change by those samples alone; a
table [B, B] of such changes is all that is needed.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from foundation import devices
from methods.metric_learning.measures import MASKED

Mean = Literal["geometric", "arithmetic"]


class Problem(NamedTuple):
    """distances: [B, B]. classes: int64 [B] in [0, B). labeled: [B] of 0 and 1. gamma: γ. mean: of
    the two entropies in the NMI."""

    distances: Tensor
    classes: Tensor
    labeled: Tensor
    gamma: float
    mean: Mean


class Assignment(NamedTuple):
    """nearest: [B], distance to the nearest of some medoids. cluster: [B], which place it has."""

    nearest: Tensor
    cluster: Tensor


def n_log_n(count: Tensor) -> Tensor:
    return torch.special.xlogy(count, count)


def disagreement(joint: Tensor, of_class: Tensor, of_cluster: Tensor, mean: Mean) -> Tensor:
    """1 - NMI, [n], from counts [n, …] of class and cluster together, of classes, of clusters.

    B times the mutual information is f(B) + Σ f(joint) - Σ f(class) - Σ f(cluster), f(n) = n log n.
    """
    size = of_cluster.sum(1)
    total = n_log_n(size)
    class_sum = n_log_n(of_class).sum(-1)
    cluster_sum = n_log_n(of_cluster).sum(1)
    information = total + n_log_n(joint).sum(1) - class_sum - cluster_sum
    entropies = (total - class_sum).clamp_min(0), (total - cluster_sum).clamp_min(0)
    if mean == "geometric":
        middle = (entropies[0] * entropies[1]).sqrt()
    else:
        middle = (entropies[0] + entropies[1]) / 2
    # f(n) of one cluster leaves an entropy of rounding alone
    some = middle > 1e-4
    both_trivial = (entropies[0] < 1e-4) & (entropies[1] < 1e-4)
    agreement = torch.where(some, information / middle.where(some, torch.ones_like(middle)), 0)
    return 1 - torch.where(both_trivial, 1, agreement)


def moved_by(problem: Problem, others: Assignment) -> Tensor:
    """Which samples each candidate takes over from the others, [candidates, B]; itself always, also
    from a duplicate."""
    moved = problem.distances < others.nearest
    return moved.fill_diagonal_(True) & problem.labeled.bool()


def disagreements(problem: Problem, others: Assignment, place: int) -> Tensor:
    """1 - NMI of the clusters with each candidate at a place, [B]."""
    size = len(problem.classes)
    moved = moved_by(problem, others).to(problem.distances)
    counts = problem.labeled.to(moved)
    zeros = torch.zeros_like(moved)
    # classes and clusters are numbers below B, so a pair is one number below B²
    pair = problem.classes * size + others.cluster
    cell = torch.searchsorted(pair.sort().values, pair)

    def left(index: Tensor) -> Tensor:
        """Counts by an index after each candidate took its own, [B, B]."""
        remaining = counts - moved
        return zeros.index_add(1, index, remaining)

    taken = zeros.index_add(1, problem.classes, moved)
    clusters = left(others.cluster)
    clusters[:, place] += moved.sum(1)
    of_class = zeros[0].index_add(0, problem.classes, counts)
    joint = torch.cat([left(cell), taken], 1)
    return disagreement(joint, of_class, clusters, problem.mean)


def assignment_to(problem: Problem, medoids: Tensor, without: int | None = None) -> Assignment:
    """The nearest medoid of each sample; a medoid is its own. medoids: int64 [k], -1 for a place
    not yet taken. without: a place that is left out."""
    columns = problem.distances[:, medoids.clamp_min(0)].clone()
    there = medoids >= 0
    itself = torch.arange(len(problem.classes), device=medoids.device)[:, None] == medoids
    columns = columns.masked_fill(itself, -1.0).masked_fill(~there, MASKED)
    if without is not None:
        columns[:, without] = MASKED
    nearest, cluster = columns.min(1)
    return Assignment(nearest.clamp_min(0), cluster)


def greedy(problem: Problem, places: int, count: Tensor) -> Tensor:
    """Medoids one after the other, each the candidate with the best score, int64 [places]; -1 from
    `count` on."""
    device = problem.distances.device
    medoids = torch.full((places,), -1, dtype=torch.int64, device=device)
    taken = ~problem.labeled.bool()
    others = Assignment(
        torch.full_like(problem.distances[0], MASKED), torch.zeros_like(problem.classes)
    )
    for place in range(places):
        distances = torch.minimum(problem.distances, others.nearest)
        scores = -(distances * problem.labeled).sum(1)
        if problem.gamma:
            scores += problem.gamma * disagreements(problem, others, place)
        best = scores.masked_fill(taken, -torch.inf).argmax()
        medoids[place] = torch.where(place < count, best, -1)
        taken = taken.index_fill(0, best[None], True)
        others = assignment_to(problem, medoids)
    return medoids


def refine(problem: Problem, medoids: Tensor, sweeps: int) -> Tensor:
    """Swap each medoid with the member of its cluster that scores best by the cluster's own
    distances, a number of times over all clusters (PAM)."""
    for _ in range(sweeps):
        for place in range(len(medoids)):
            members = (assignment_to(problem, medoids).cluster == place) & problem.labeled.bool()
            scores = -(problem.distances * members).sum(1)
            if problem.gamma:
                others = assignment_to(problem, medoids, without=place)
                scores += problem.gamma * disagreements(problem, others, place)
            best = scores.masked_fill(~members, -torch.inf).argmax()
            medoids[place] = torch.where(medoids[place] >= 0, best, -1)
    return medoids


@torch.no_grad()
def choose_medoids(problem: Problem, sweeps: int) -> Tensor:
    """As many medoids as there are classes, int64 [k], -1 for none: k is the number of classes, or
    B where the host would have to wait for a device to know it."""
    classes = problem.classes.sort().values
    labeled = problem.labeled.bool()
    first = torch.searchsorted(classes, problem.classes)
    present = torch.zeros_like(problem.classes).index_add(0, first, labeled.long()) > 0
    count = present.sum()
    places = int(count) if devices.readable(count) else len(problem.classes)
    return refine(problem, greedy(problem, places, count), sweeps)
