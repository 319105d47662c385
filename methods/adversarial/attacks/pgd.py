"""Projected gradient descent. Madry et al., Towards Deep Learning Models Resistant to Adversarial
Attacks, ICLR 2018, arXiv 1706.06083; without a start it is the basic iterative method of Kurakin,
Goodfellow and Bengio, 2017, arXiv 1607.02533."""

from torch import Tensor

from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.threat import Threat


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
