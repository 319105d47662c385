"""The last slot of the target pipeline: losses between a prediction and its target, [N], in
float32."""

import torch.nn.functional as F
from torch import Tensor


def squared_distance(p: Tensor, q: Tensor) -> Tensor:
    """MSE of probabilities, (1/C) Σ_c (p_c - q_c)², [N]. The 1/C is part of every published
    weight."""
    return (p - q).square().mean(1)


def entropy(logits: Tensor) -> Tensor:
    """H(p) = -Σ_c p_c log p_c of p = softmax(z), [N], with gradient."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1)
