"""The whole matrix of a batch, [B, B], recorded by autograd: for losses in which pairs meet pairs,
so that no anchor's row is enough."""

import torch
from torch import Tensor

from methods.metric_learning.measures import MASKED


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which pairs are positive and which negative, bool [B, B]. labels: [B], -1 for none."""
    labeled = labels >= 0
    both = labeled[:, None] & labeled
    same = labels[:, None] == labels
    return (same & both).fill_diagonal_(False), ~same & both


def squared_distances(x: Tensor) -> Tensor:
    """‖x_i - x_j‖², [B, B], at least 0, and 0 on the diagonal. x: [B, d]."""
    x = x - x.detach().mean(0)  # as in measures.SquaredDistance
    squared_norms = x.square().sum(1)
    squared = squared_norms[:, None] + squared_norms - 2 * x @ x.T
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return squared.clamp_min(0).masked_fill(itself, 0)


def safe_root(squared: Tensor) -> Tensor:
    """√z, with a gradient of 0 where z is 0."""
    is_zero = squared <= 0
    return squared.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)


def masked_log_sum(z: Tensor, mask: Tensor) -> Tensor:
    """log Σ e^z over the entries of each row with a mask, [n]; about -MASKED without any."""
    return torch.where(mask, z, -MASKED).logsumexp(1)
