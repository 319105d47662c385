"""Fast gradient sign method. Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial
Examples, ICLR 2015, arXiv 1412.6572."""

from torch import Tensor

from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.threat import Threat


def fgsm(value: Objective, x: Tensor, threat: Threat) -> Tensor:
    """x + eps · sign g, clipped to the box; l2: x + eps · g / ‖g‖₂, g = ∇ₓ value."""
    return threat.project(x, x + threat.eps * threat.direction(input_gradient(value, x))).detach()
