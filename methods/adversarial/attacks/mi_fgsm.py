"""Momentum iterative FGSM. Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018,
arXiv 1710.06081."""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Count
from methods.adversarial.attacks.attack import Attack, Draws, Victim
from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.threat import Radius, Threat, radius
from methods.directions import unit

Momentum = Annotated[float, Field(ge=0)]
# (point, buffer, number of the step) -> gradient
Gradient = Callable[[Tensor, Tensor, int], Tensor]


def accumulate(buffer: Tensor, gradient: Tensor, momentum: float, order: float = 1.0) -> Tensor:
    """m ← μ m + g / ‖g‖₁ per sample; a gradient that is zero or not finite adds zero, not NaN."""
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    return momentum * buffer + unit(gradient, order)


def momentum_steps(
    gradient: Gradient,
    x: Tensor,
    threat: Threat,
    steps: int,
    momentum: float,
    step_size: float,
    start: Tensor | None = None,
    order: float = 1.0,
) -> Tensor:
    """m ← μ m + g / ‖g‖, x' ← Proj(x' + a · direction(m)), from m = 0: the loop that MI-, NI-,
    DI- and TI-FGSM share. order: of the norm that divides the gradient."""
    x = x.detach().float()
    moved = x if start is None else threat.project(x, x + start)
    buffer = torch.zeros_like(x)
    for number in range(steps):
        buffer = accumulate(buffer, gradient(moved, buffer, number), momentum, order)
        moved = threat.project(x, moved + step_size * threat.direction(buffer))
    return moved.detach()


def mi_fgsm(
    value: Objective,
    x: Tensor,
    threat: Threat,
    steps: int,
    momentum: float = 1.0,
    step_size: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """m ← μ m + g / ‖g‖₁, x ← Proj(x + a · direction(m)), from m = 0; step_size a: eps / steps
    (paper)."""
    if step_size is None:
        step_size = threat.eps / max(steps, 1)

    def gradient(moved: Tensor, buffer: Tensor, number: int) -> Tensor:
        return input_gradient(value, moved)

    return momentum_steps(gradient, x, threat, steps, momentum, step_size, start)


class MomentumAttack(Attack):
    """Base of the attacks that step along a running sum of normalized gradients.

    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length a of a step; null: eps / steps (paper).
    """

    def __init__(self, steps: int, step_size: float | str | None, momentum: float):
        self.steps = steps
        self.step_size = None if step_size is None else radius(step_size)
        self.momentum = momentum

    def length_of_step(self, threat: Threat) -> float:
        return threat.eps / self.steps if self.step_size is None else self.step_size


class MIFGSM(MomentumAttack):
    """m ← μ m + g / ‖g‖₁, x' ← Proj(x' + a · direction(m)): momentum carries the attack over poor
    local maxima, so that it transfers to other networks.

    momentum: decay μ of the running sum, at least 0; 1 (paper).
    """

    def __init__(
        self, steps: Count = 10, step_size: Radius | None = None, momentum: Momentum = 1.0
    ):
        super().__init__(steps, step_size, momentum)

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        step_size = self.length_of_step(threat)
        return mi_fgsm(victim.value, victim.x, threat, self.steps, self.momentum, step_size, start)
