"""Structured clustering loss. Oh Song, Jegelka, Rathod and Murphy, Deep metric learning via
facility location, CVPR 2017, arXiv 1612.01213."""

from typing import Literal

import torch
from torch import Tensor

from foundation.types import Count, Steps, Weight
from methods.metric_learning.measures import MASKED
from methods.metric_learning.medoids import (
    Mean,
    Problem,
    assignment_to,
    choose_medoids,
    disagreement,
)
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pairwise import safe_root, squared_distances
from recipes.contract import Context


def class_indices(labels: Tensor) -> Tensor:
    """Equal for samples of one class and in [0, B), whatever the labels are."""
    return torch.searchsorted(labels.sort().values, labels)


def distance_to_class_medoids(d: Tensor, labels: Tensor) -> Tensor:
    """-F̃ = Σ_c min_{j in c} Σ_{i in c} D_ij. d: [B, B], labels: [B], -1 for none."""
    same = (labels[:, None] == labels) & (labels >= 0)
    costs = (d.detach() * same).sum(1)
    medoid = torch.where(same, costs, MASKED).argmin(1)
    own = d.gather(1, medoid[:, None]).squeeze(1)
    return (own * (labels >= 0)).sum()


def clustering(
    d: Tensor, labels: Tensor, gamma: float, mean: Mean, sweeps: int
) -> tuple[Tensor, Tensor]:
    """[F(S) + γ Δ - F̃]+ and Δ, for the medoids S that inference finds; they and the clusters are
    constants for the gradient. d: [B, B], labels: [B], -1 for none."""
    problem = Problem(d.detach(), class_indices(labels), (labels >= 0).to(d), gamma, mean)
    medoids = choose_medoids(problem, sweeps)
    delta = clusters_disagree(problem, medoids)
    if len(medoids):
        cluster = assignment_to(problem, medoids).cluster
        nearest = d.gather(1, medoids[cluster].clamp_min(0)[:, None]).squeeze(1)
        to_medoids = (nearest * problem.labeled).sum()
    else:
        to_medoids = d.sum() * 0
    excess = distance_to_class_medoids(d, labels) - to_medoids + gamma * delta
    return excess.clamp_min(0), delta


@torch.no_grad()
def clusters_disagree(problem: Problem, medoids: Tensor) -> Tensor:
    """Δ = 1 - NMI of classes and the clusters of these medoids."""
    if not len(medoids):
        return problem.distances.new_zeros(())
    size = len(problem.classes)
    cluster = assignment_to(problem, medoids).cluster
    zeros = torch.zeros_like(problem.labeled)
    pair = problem.classes * size + cluster
    cell = torch.searchsorted(pair.sort().values, pair)
    joint, of_class, of_cluster = (
        zeros.index_add(0, index, problem.labeled) for index in (cell, problem.classes, cluster)
    )
    return disagreement(joint[None], of_class, of_cluster[None], problem.mean)[0]


class Clustering(MetricLoss):
    """L = [max_S {F(S) + γ (1 - NMI)} - F̃]+, F(S) = -Σ_i min_{j in S} D_ij: the classes are a
    better clustering of the batch than any other, by how much that one is wrong.

    F̃ is the same sum with the best medoid of each class. S are as many medoids as there are
    classes, those that violate it most; they are found greedily and refined by swaps (the exact
    maximum is a search over all sets), without gradient. The loss is a sum over the batch, so γ
    should grow with it. It sees clusters and not pairs; each step costs a search of about classes ·
    B² · (1 + sweeps) operations. Where the host may not wait for a device, there are B places for
    medoids instead of one for each class. Logged as `disagreement`: 1 - NMI of the clusters found.

    gamma: γ, weight of 1 - NMI, at least 0; 1.
    sweeps: passes of swaps over all clusters, at least 0; 5 (authors' code).
    nmi: mean of both entropies in the NMI, `geometric` (paper) or `arithmetic`.
    squared: D = ‖·‖²; false (authors' code): ‖·‖.
    reduction: `sum` over the batch (paper), or `mean_batch`, by its samples.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 64).
    normalize: L2-normalise the embedding; true.
    """

    def __init__(
        self,
        gamma: Weight = 1.0,
        sweeps: Steps = 5,
        nmi: Mean = "geometric",
        squared: bool = False,
        reduction: Literal["sum", "mean_batch"] = "sum",
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.gamma = gamma
        self.sweeps = sweeps
        self.nmi = nmi
        self.squared = squared
        self.reduction = reduction

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        d = squared_distances(x)
        if not self.squared:
            d = safe_root(d)
        value, delta = clustering(d, labels, self.gamma, self.nmi, self.sweeps)
        if self.reduction == "mean_batch":
            value = value / (labels >= 0).sum().clamp_min(1)
        return value, {"disagreement": delta}
