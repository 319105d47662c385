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


def n_log_n(count: Tensor, size: int) -> Tensor:
    """From a table of 0 to size, which costs a fraction of as many logarithms."""
    numbers = torch.arange(size + 1, device=count.device, dtype=count.dtype)
    return torch.special.xlogy(numbers, numbers)[count.long()]


def indicator(index: Tensor, like: Tensor) -> Tensor:
    """1 at (i, index_i), else 0, [B, B]: counts by an index are a product with it."""
    return torch.zeros_like(like).scatter_(1, index[:, None], 1)


def disagreement(joint: Tensor, of_class: Tensor, of_cluster: Tensor, mean: Mean) -> Tensor:
    """1 - NMI, [n], from counts [n, …] of class and cluster together, of classes, of clusters.

    B times the mutual information is f(B) + Σ f(joint) - Σ f(class) - Σ f(cluster), f(n) = n log n.
    """
    size = joint.shape[-1]
    total = n_log_n(of_cluster.sum(1), size)
    class_sum = n_log_n(of_class, size).sum(-1)
    cluster_sum = n_log_n(of_cluster, size).sum(1)
    joint_sum = n_log_n(joint, size).sum(1)
    information = total + joint_sum - class_sum - cluster_sum
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
    # classes and clusters are numbers below B, so a pair is one number below B²
    pair = problem.classes * size + others.cluster
    cell = torch.searchsorted(pair.sort().values, pair)
    by_class = indicator(problem.classes, moved)
    indicators = torch.cat([indicator(cell, moved), indicator(others.cluster, moved), by_class], 1)
    before = problem.labeled @ indicators
    moves = moved @ indicators
    in_cells, clusters, _ = (before - moves).split(size, 1)
    taken = moves[:, 2 * size :]
    clusters = clusters.index_add(1, torch.full_like(cell[:1], place), moved.sum(1, keepdim=True))
    return disagreement(torch.cat([in_cells, taken], 1), before[2 * size :], clusters, problem.mean)


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
