"""Pairs of a batch as masks of static shape: who is positive and who negative to whom.

Rows are anchors, columns are references: the batch itself, or a memory. A pair is positive where both labels are equal,
negative where they differ; a label of -1 takes part in none, and a sample is no pair with itself, by its position and
not by its distance, which a duplicate shares.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """positive, negative: bool [B, R]. anchors: bool [B], rows with a label."""

    positive: Tensor
    negative: Tensor
    anchors: Tensor


def pairs_of(labels: Tensor, references: Tensor | None = None) -> Pairs:
    """labels: [B] of the anchors. references: [R] labels; None: the batch itself."""
    known = labels >= 0
    columns = labels if references is None else references
    both = known[:, None] & (columns >= 0)
    same = labels[:, None] == columns
    positive = both & same
    if references is None:
        positive = positive & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return Pairs(positive, both & ~same, known)


def squared_distances(x: Tensor, references: Tensor) -> Tensor:
    """‖x_i - r_j‖², [B, R], from one matrix product. A common shift changes no distance, and taking the mean away keeps
    the distances of points far from the origin from drowning in the rounding of their lengths."""
    centre = references.detach().mean(0)
    x, references = x - centre, references - centre
    lengths = x.square().sum(1, keepdim=True), references.square().sum(1)
    return (lengths[0] + lengths[1] - 2 * x @ references.T).clamp_min(0)


def distances(x: Tensor, references: Tensor) -> Tensor:
    """‖x_i - r_j‖, [B, R]. Where it is 0 the gradient is 0 too: that of a square root would be infinite."""
    squared = squared_distances(x, references)
    zero = squared == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squared).sqrt())


def log_sum_exp(z: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
    """log Σ exp z over the masked entries; where there are none a very small finite number without gradient, since
    sums and comparisons with -inf have none."""
    some = mask.any(dim)
    kept = torch.where(mask, z, float("-inf"))
    kept = torch.where(some.unsqueeze(dim), kept, 0.0)
    return torch.where(some, torch.logsumexp(kept, dim), -1e4)


def log_one_plus_sum_exp(z: Tensor, mask: Tensor, dim: int = 1) -> Tensor:
    """log(1 + Σ exp z) over the masked entries; 0 where there are none."""
    kept = torch.where(mask, z, float("-inf"))
    one = torch.zeros_like(kept.select(dim, 0)).unsqueeze(dim)
    return torch.logsumexp(torch.cat([kept, one], dim), dim)


def mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked entries, 0 (with a gradient of 0) where there are none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
