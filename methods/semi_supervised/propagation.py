"""Label propagation on a graph of nearest neighbors, from features and a few labels (Zhou et al.,
Learning with Local and Global Consistency, NeurIPS 2003; Iscen et al., CVPR 2019).

    features → neighbors → affinity W → normalized S → spread Z = (I - αS)⁻¹ Y → labels, certainty

Pure functions. N samples with k neighbors take memory for O(N k) numbers: similarities are computed
in tiles, and the graph is a sparse matrix. The graph is in float64, since the weights of remote
samples differ by many orders of magnitude.
"""

import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.services.neighbors import BLOCK, mirrors, nearest, ranked

COLUMNS = 64  # classes that are solved at once


class Propagated(NamedTuple):
    """labels: int64 [N], -1 for a sample that no label reaches. certainty: ω [N] in [0, 1]."""

    labels: Tensor
    certainty: Tensor


# -- the graph -------------------------------------------------------------------------------------
def neighbors_of_all(x: Tensor, count: int) -> Tensor:
    """int64 [N, k]: the rows most similar to every row of x [N, d] by x_i · x_j, k = min(count,
    N - 1). A row is not its own neighbor, but a duplicate of it is."""
    count = min(count, len(x) - 1)
    if count < 1:
        return torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    if mirrors(x, count):
        return nearest(x, slice(0, len(x)), count)
    found = []
    for rows in torch.arange(len(x), device=x.device).split(max(BLOCK // len(x), 1)):
        similarity = x[rows] @ x.T
        similarity.scatter_(1, rows[:, None], -torch.inf)
        found.append(ranked(similarity, count))
    return torch.cat(found)


def similarities(x: Tensor, neighbors: Tensor) -> Tensor:
    """x_i · x_j, float32 [N, k], for the neighbors j of each i."""
    found = []
    size = max(BLOCK // max(neighbors.shape[1] * x.shape[1], 1), 1)
    for own, others in zip(x.split(size), neighbors.split(size), strict=True):
        found.append((own[:, None] * x[others]).sum(2))
    return torch.cat(found)


def affinity(similarity: Tensor, neighbors: Tensor, gamma: float) -> Tensor:
    """W = A + Aᵀ, a sparse symmetric matrix [N, N] in float64 without a diagonal: A_ij = max(s_ij,
    0)^γ for the neighbors j of i.

    similarity, neighbors: [N, k]. Negative similarities, which features without a ReLU have, would
    make edges of negative weight, or of a large positive one for an even γ."""
    size, count = neighbors.shape
    rows = torch.arange(size, device=neighbors.device).repeat_interleave(count)
    columns = neighbors.flatten()
    weights = similarity.double().clamp_min(0).pow(gamma).flatten()
    pairs = torch.stack([torch.cat([rows, columns]), torch.cat([columns, rows])])
    both = torch.cat([weights, weights])
    # without the argument torch warns that it leaves the checks out
    edges = torch.sparse_coo_tensor(pairs, both, (size, size), check_invariants=False).coalesce()
    with warnings.catch_warnings():
        # that the form is in a beta state, which torch says once a process
        warnings.simplefilter("ignore")
        return edges.to_sparse_csr()


def normalized(affinity: Tensor) -> Tensor:
    """S = D^{-1/2} W D^{-1/2}, sparse [N, N]; a sample without edges has degree 1."""
    starts = affinity.crow_indices()
    edges = starts.diff()
    ones = affinity.values().new_ones(len(edges), 1)
    degree = (affinity @ ones).squeeze(1)
    scale = torch.where(degree > 0, degree, 1.0).rsqrt()
    rows = scale.repeat_interleave(edges)
    columns = affinity.col_indices()
    values = affinity.values() * rows * scale[columns]
    shape = affinity.shape
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def neighbor_graph(features: Tensor, count: int, gamma: float) -> Tensor:
    """S of the cosine graph with `count` neighbors of features [N, d]."""
    x = F.normalize(features.float(), dim=1)
    neighbors = neighbors_of_all(x, count)
    return normalized(affinity(similarities(x, neighbors), neighbors, gamma))


# -- propagation -----------------------------------------------------------------------------------
def seeds(labels: Tensor, classes: int, balanced: bool = True) -> Tensor:
    """Y, float64 [N, C]: one-hot rows of labeled samples, zeros for label -1. balanced: columns are
    divided by the class's number of labels, so that all classes have the same mass."""
    one_hot = (labels[:, None] == torch.arange(classes, device=labels.device)).double()
    if not balanced:
        return one_hot
    return one_hot / one_hot.sum(0).clamp_min(1.0)


def spread(graph: Tensor, seeds: Tensor, alpha: float, steps: int, tolerance: float) -> Tensor:
    """Z ≈ (I - αS)⁻¹ Y, [N, C], by conjugate gradients on every column: `steps` iterations, fewer
    where a column's residual is at most `tolerance` times its right-hand side.

    graph: S, sparse [N, N]. The system is positive definite for α < 1, since the eigenvalues of S
    are in [-1, 1]."""
    z = torch.zeros_like(seeds)
    residual = seeds.clone()
    direction = seeds.clone()
    squared = residual.square().sum(0)
    limit = tolerance**2 * squared
    for _ in range(steps):
        running = squared > limit
        if not running.any():
            break
        image = direction - alpha * (graph @ direction)
        # a column that has ended divides 0 by 0
        length = torch.where(running, squared / (direction * image).sum(0), 0.0)
        z += length * direction
        residual -= length * image
        before = squared
        squared = residual.square().sum(0)
        direction = residual + torch.where(running, squared / before, 0.0) * direction
    return z


def certainty_of(z: Tensor) -> Propagated:
    """argmax_c z_c and ω = 1 - H(z / Σ z) / log C of Z [N, C], negative entries taken as 0; a row
    of zeros has label -1 and ω = 0."""
    mass = z.clamp_min(0.0)
    total = mass.sum(1)
    reached = total > 0
    q = mass / torch.where(reached, total, 1.0)[:, None]
    entropy = -torch.special.xlogy(q, q).sum(1)
    certainty = (1.0 - entropy / math.log(z.shape[1])).clamp(0.0, 1.0)
    return Propagated(
        torch.where(reached, q.argmax(1), -1), torch.where(reached, certainty, 0.0).float()
    )


def propagate(
    graph: Tensor,
    labels: Tensor,
    classes: int,
    *,
    alpha: float = 0.99,
    steps: int = 20,
    tolerance: float = 1e-6,
    balanced: bool = True,
    relative: bool = True,
) -> Propagated:
    """Pseudo-labels of all N samples and their certainties. A labeled sample keeps its label, with
    ω = 1.

    labels: int64 [N], -1 without a label. relative: divide ω by its maximum."""
    known = labels >= 0
    columns = seeds(labels, classes, balanced).split(COLUMNS, dim=1)
    z = torch.cat([spread(graph, part, alpha, steps, tolerance) for part in columns], 1)
    found, certainty = certainty_of(z)
    if relative:
        largest = certainty.amax()
        certainty = certainty / torch.where(largest > 0, largest, 1.0)
    return Propagated(torch.where(known, labels, found), torch.where(known, 1.0, certainty))


def balancing_weights(labels: Tensor, classes: int) -> Tensor:
    """ζ_c = N / (C n_c), float32 [C], with mean 1 over samples where every class occurs; 0 for a
    class without samples.

    labels: int64 [M]; the N of them that are not -1 are counted."""
    counts = torch.bincount(labels[labels >= 0], minlength=classes).float()
    weights = counts.sum() / (classes * counts.clamp_min(1.0))
    return torch.where(counts > 0, weights, 0.0)
