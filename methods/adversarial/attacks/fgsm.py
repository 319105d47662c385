"""Fast gradient sign method. Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial
Examples, ICLR 2015, arXiv 1412.6572."""

from torch import Tensor

from methods.adversarial.attacks.attack import Attack, Draws, Victim
from methods.adversarial.attacks.losses import Objective, input_gradient
from methods.adversarial.attacks.threat import Threat


def fgsm(value: Objective, x: Tensor, threat: Threat, start: Tensor | None = None) -> Tensor:
    """x + eps · sign g, clipped to the box; l2: x + eps · g / ‖g‖₂, g = ∇ₓ value."""
    moved = x if start is None else threat.project(x, x + start)
    direction = threat.direction(input_gradient(value, moved))
    return threat.project(x, moved + threat.eps * direction).detach()


class FGSM(Attack):
    """x' = x + eps · sign g (l2: eps · g / ‖g‖₂): one step along the gradient g of the loss. Quick
    and weak: it suits training and comparisons, and proves no robustness."""

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        return fgsm(victim.value, victim.x, threat, start)
