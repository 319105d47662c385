"""Nesterov iterative FGSM. Lin et al., Nesterov Accelerated Gradient and Scale Invariance for
Adversarial Attacks, ICLR 2020, arXiv 1908.06281."""

from typing import Literal

import torch
from torch import Tensor

from foundation.types import Count
from methods.adversarial.attacks.attack import Draws, Victim
from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.mi_fgsm import Momentum, MomentumAttack, momentum_steps
from methods.adversarial.attacks.threat import Radius, Threat, per_sample

Normalizer = Literal["mean", "l1"]


def entries(x: Tensor, threat: Threat) -> Tensor:
    """The number of entries of a sample that may change, shaped to multiply x."""
    return per_sample(threat.masked(torch.ones_like(x)).flatten(1).sum(1), x)


def ni_fgsm(
    value: Objective,
    x: Tensor,
    threat: Threat,
    steps: int,
    momentum: float,
    step_size: float,
    normalizer: Normalizer = "mean",
    start: Tensor | None = None,
) -> Tensor:
    """MI-FGSM with the gradient at x' + a μ m, which is not clipped."""
    order = 1.0 if threat.norm == "linf" else 2.0
    ahead = step_size * momentum
    # g / mean |g| is d · g / ‖g‖₁
    factor = entries(x, threat) if normalizer == "mean" and order == 1.0 else 1.0

    def gradient(moved: Tensor, buffer: Tensor, number: int) -> Tensor:
        return input_gradient(value, moved + ahead * factor * threat.masked(buffer))

    return momentum_steps(gradient, x, threat, steps, momentum, step_size, start, order)


class NIFGSM(MomentumAttack):
    """m ← μ m + g / mean |g| with the gradient g at x' + a μ m, where momentum is about to lead;
    x' ← Proj(x' + a · direction(m)).

    The paper divides by ‖g‖₁, with which entries of m are about 1/d and the look-ahead vanishes:
    the attack is then MI-FGSM. The authors' code, torchattacks and our default divide by the mean.
    In l2, where a step has length a, gradients are divided by ‖g‖₂.

    momentum: decay μ of the running sum, at least 0; 1 (paper).
    normalizer: what divides a gradient in linf: `mean` of its entries (authors' code) or `l1`.
    """

    def __init__(
        self,
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Momentum = 1.0,
        normalizer: Normalizer = "mean",
    ):
        super().__init__(steps, step_size, momentum)
        self.normalizer: Normalizer = normalizer

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        step_size = self.length_of_step(threat)
        settings = (self.steps, self.momentum, step_size, self.normalizer, start)
        return ni_fgsm(victim.value, victim.x, threat, *settings)
