"""Momentum iterative FGSM. Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018,
arXiv 1710.06081."""

import torch
from torch import Tensor

from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.threat import Threat
from methods.directions import unit


def accumulate(buffer: Tensor, gradient: Tensor, momentum: float) -> Tensor:
    """m ← μ m + g / ‖g‖₁ per sample; a gradient that is zero or not finite adds zero, not NaN."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return momentum * buffer + unit(gradient, 1.0)


def mi_fgsm(
    value: Objective,
    x: Tensor,
    threat: Threat,
    steps: int,
    momentum: float = 1.0,
    step_size: float | None = None,
) -> Tensor:
    """m ← μ m + g / ‖g‖₁, x ← Proj(x + a · direction(m)), from m = 0; step_size a: eps / steps
    (paper)."""
    x = x.detach().float()
    moved = x
    buffer = torch.zeros_like(x)
    if step_size is None:
        step_size = threat.eps / max(steps, 1)
    for _ in range(steps):
        buffer = accumulate(buffer, input_gradient(value, moved), momentum)
        moved = threat.project(x, moved + step_size * threat.direction(buffer))
    return moved.detach()
