"""Pieces of the target pipeline that several methods share: pure functions on tensors, all in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def soft_targets(logits: Tensor) -> Tensor:
    """q = softmax(z), [N, C], without gradient."""
    return torch.softmax(logits.float(), dim=1)


@torch.no_grad()
def sharpen(logits: Tensor, temperature: float) -> Tensor:
    """q_c^(1/T) / Σ q^(1/T) with q = softmax(z), computed as softmax(z / T); T = 1 leaves q, T → 0 tends to one-hot."""
    return torch.softmax(logits.float() / temperature, dim=1)


@torch.no_grad()
def confident(probabilities: Tensor, threshold: float) -> Tensor:
    """m = 1[max_c q_c ≥ τ], [N] float32; ties are kept, τ > 1 keeps nothing."""
    return (probabilities.amax(1) >= threshold).float()


def kl_divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(q ‖ p) = Σ_c q_c (log q_c - log p_c) for each sample, [N]; q [N, C] without gradient, p = softmax(z).

    Terms with q_c = 0 are 0.
    """
    log_p = F.log_softmax(logits, dim=1)
    return (torch.special.xlogy(target, target) - target * log_p).sum(1)


def squared_distance(p: Tensor, q: Tensor) -> Tensor:
    """MSE of probabilities, (1/C) Σ_c (p_c - q_c)², [N]. The 1/C is part of every published weight."""
    return (p - q).square().mean(1)


def entropy(logits: Tensor) -> Tensor:
    """H(p) = -Σ_c p_c log p_c of p = softmax(z), [N], with gradient."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1)
