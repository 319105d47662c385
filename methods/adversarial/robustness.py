"""One probe per attack, added to any recipe by `evaluate.attack=NAME`; what they measure is in
`robust_accuracy.py`."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from foundation.moved import former_names
from foundation.types import Count
from methods.adversarial.attacks.fgsm import fgsm
from methods.adversarial.attacks.losses import Loss, Objective
from methods.adversarial.attacks.mi_fgsm import mi_fgsm
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.square_attack import square_attack
from methods.adversarial.attacks.threat import Norm, Radius, Threat, radius
from methods.adversarial.robust_accuracy import Draws, Robustness, Victim


class FGSMRobustness(Robustness):
    """x' = x + eps · sign g (l2: eps · g / ‖g‖₂), one step along the gradient g of the loss.
    Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015, arXiv
    1412.6572.

    loss: loss that the attack raises: `ce` (paper), `margin` or `dlr` (from three classes).
    draws: gradients averaged, at least 1; 1; more for networks that draw random numbers.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(norm, eps, samples)
        self.loss = loss
        self.draws = draws

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        return fgsm(victim.objective(self.loss, self.draws), victim.x, threat)


class PGDRobustness(Robustness):
    """x' ← Proj(x' + a · direction(g)), `steps` steps from each of `restarts` random starts in the
    ball; the worst result counts. Madry et al., ICLR 2018, arXiv 1706.06083.

    steps: steps of PGD, at least 1; 20 (PGD-20).
    step_size: length a of a step; null: eps/4, which is 2/255 at 8/255 (papers).
    restarts: random starts, of which the worst result counts, at least 1; 2.
    random_start: start at random points of the ball; false: at the sample, once.
    loss: loss that the attack raises: `ce` (paper), `margin` or `dlr` (from three classes).
    draws: gradients averaged, at least 1; 1; more for networks that draw random numbers.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 20,
        step_size: Radius | None = None,
        restarts: Count = 2,
        random_start: bool = True,
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(norm, eps, samples)
        self.steps = steps
        self.random_start = random_start
        self.loss = loss
        self.draws = draws
        self.step_size = self.eps / 4 if step_size is None else radius(step_size)
        self.restarts = restarts if random_start else 1

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        value = victim.objective(self.loss, self.draws)
        start = threat.random_start(victim.x, draw("start")) if self.random_start else None
        return pgd(value, victim.x, threat, self.steps, self.step_size, start)


class MIFGSMRobustness(Robustness):
    """m ← μ m + g / ‖g‖₁, x' ← Proj(x' + a · direction(m)): steps along a running sum of normalised
    gradients. Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv 1710.06081.

    steps: steps of the attack, at least 1; 10 (paper).
    step_size: length a of a step; null: eps / steps (paper).
    momentum: decay μ of the running sum, at least 0; 1 (paper).
    loss: loss that the attack raises: `ce` (paper), `margin` or `dlr` (from three classes).
    draws: gradients averaged, at least 1; 1; more for networks that draw random numbers.
    """

    def __init__(
        self,
        norm: Norm = "linf",
        eps: Radius = "8/255",
        steps: Count = 10,
        step_size: Radius | None = None,
        momentum: Annotated[float, Field(ge=0)] = 1.0,
        loss: Loss = "ce",
        draws: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__(norm, eps, samples)
        self.steps = steps
        self.momentum = momentum
        self.loss = loss
        self.draws = draws
        self.step_size = None if step_size is None else radius(step_size)

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        value = victim.objective(self.loss, self.draws)
        return mi_fgsm(value, victim.x, threat, self.steps, self.momentum, self.step_size)


class SquareRobustness(Robustness):
    """x' = argmax of the margin loss over random squares of ±eps, by `queries` forwards per sample
    and without gradients, in linf: it succeeds where masked gradients stop other attacks.
    Andriushchenko et al., Square Attack, ECCV 2020, arXiv 1912.00049.

    queries: queries of the network per sample, at least 1; 1000.
    initial: share of the picture that the first squares cover, in (0, 1]; 0.8 (AutoAttack).
    restarts: independent searches, of which the worst counts, at least 1; 1.
    """

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    by_gradient = False

    def __init__(
        self,
        eps: Radius = "8/255",
        queries: Count = 1000,
        initial: Annotated[float, Field(gt=0, le=1)] = 0.8,
        restarts: Count = 1,
        samples: Count | None = None,
    ):
        super().__init__("linf", eps, samples)
        self.queries = queries
        self.initial = initial
        self.restarts = restarts

    def attack(self, victim: Victim, threat: Threat, draw: Draws) -> Tensor:
        def among(rows: Tensor) -> Objective:
            return victim.among(rows).objective("margin")

        value = victim.objective("margin")
        return square_attack(value, victim.x, threat, self.queries, draw, self.initial, among).x


if not TYPE_CHECKING:  # with a module `__getattr__` mypy would accept any name
    __getattr__ = former_names(__name__)
