"""Losses between a prediction and its target, [N] in float32: the last slot of the target
pipeline."""

import torch.nn.functional as F
from torch import Tensor

from recipes.contract import Context


def squared_distance(p: Tensor, q: Tensor) -> Tensor:
    """MSE of probabilities, (1/C) Σ_c (p_c - q_c)², [N]. The 1/C is part of every published
    weight."""
    return (p - q).square().mean(1)


def entropy(logits: Tensor) -> Tensor:
    """H(p) = -Σ_c p_c log p_c of p = softmax(z), [N], with gradient."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1)


def labeled_fraction(context: Context) -> float:
    """M/N, labeled over unlabeled samples: a factor of the weights that Laine and Aila publish."""
    return context.sizes["labeled"] / context.sizes["unlabeled"]
