"""Projected gradient descent. Madry et al., Towards Deep Learning Models Resistant to Adversarial
Attacks, ICLR 2018, arXiv 1706.06083."""

from torch import Tensor

from foundation.types import Count
from methods.adversarial.attacks.attack import Attack, Draws, Victim
from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.threat import Radius, Threat, radius


def pgd(
    value: Objective,
    x: Tensor,
    threat: Threat,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
) -> Tensor:
    """x ← Proj(x + a · direction(g)), `steps` times, from x + start.

    Points are projected on the ball, then on the box (for l2 the order matters: torchattacks has
    the same, ART the reverse). A sample with a zero gradient does not move.
    """
    x = x.detach().float()
    moved = x if start is None else threat.project(x, x + start)
    for _ in range(steps):
        direction = threat.direction(input_gradient(value, moved))
        moved = threat.project(x, moved + step_size * direction)
    return moved.detach()


class PGD(Attack):
    """x' ← Proj(x' + a · direction(g)), from a random point of the ball: sign g, or g / ‖g‖₂ for
    l2.

    steps: steps of PGD, at least 1; 10 (Rice et al., 2020).
    step_size: length a of a step; null: eps/4, which is 2/255 at 8/255 (papers).
    random_start: start at a random point of the ball (paper); false: at the sample.
    """

    def __init__(
        self, steps: Count = 10, step_size: Radius | None = None, random_start: bool = True
    ):
        self.steps = steps
        self.step_size = None if step_size is None else radius(step_size)
        self.random_start = random_start

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        step_size = threat.eps / 4 if self.step_size is None else self.step_size
        if start is None and self.random_start:
            start = threat.random_start(victim.x, draw("start"))
        return pgd(victim.value, victim.x, threat, self.steps, step_size, start)
