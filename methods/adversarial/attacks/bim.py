"""Basic iterative method, or I-FGSM. Kurakin, Goodfellow and Bengio, Adversarial Examples in the
Physical World, 2017, arXiv 1607.02533."""

from typing import Literal

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.types import Count
from methods.adversarial.attacks.attack import Attack, Draws, Victim
from methods.adversarial.attacks.losses import Objective, objective
from methods.adversarial.attacks.pgd import pgd
from methods.adversarial.attacks.threat import Norm, Radius, Threat, radius
from recipes.contract.environment import Environment

Target = Literal["label", "least_likely"]


def paper_steps(eps: float) -> int:
    """min(255 eps + 4, 1.25 · 255 eps), rounded down, at least 1: enough steps of one gray level
    to reach the edge of the ball."""
    levels = round(255 * eps, 6)  # 8/255 is 8 levels, not 7.9999
    return max(1, int(min(levels + 4, 1.25 * levels)))


def towards_least_likely(victim: Victim) -> Objective:
    """-Σ_tasks CE(x', argmin f(x)): the class that the model finds least likely for the clean
    sample. It needs no label."""
    with torch.no_grad():
        clean = victim.logits(victim.x)
    wanted = {task: clean[task].argmin(1) for task in victim.targets}
    return objective(victim.logits, wanted, sign=-1.0)


class BIM(Attack):
    """x' ← Proj(x' + a · direction(g)), from the sample itself: PGD without a random start.

    With `target=least_likely` it lowers the cross-entropy of the class that is least likely for
    the clean sample, and needs no label.

    steps: steps, at least 1; null: min(255 eps + 4, 1.25 · 255 eps) (paper), 10 at 8/255.
    step_size: length a of a step; 1/255 (paper), one gray level.
    target: `label`: away from the label; `least_likely`: towards the least likely class (paper).
    """

    def __init__(
        self,
        steps: Count | None = None,
        step_size: Radius = "1/255",
        target: Target = "label",
    ):
        self.steps = steps
        self.step_size = radius(step_size)
        self.target = target

    def __call__(
        self, victim: Victim, threat: Threat, draw: Draws, start: Tensor | None = None
    ) -> Tensor:
        steps = paper_steps(threat.eps) if self.steps is None else self.steps
        value = victim.value if self.target == "label" else towards_least_likely(victim)
        return pgd(value, victim.x, threat, steps, self.step_size, start)

    def check(self, key: str, norm: Norm, environment: Environment) -> None:
        super().check(key, norm, environment)
        if environment.kind == "text" and self.steps is None:
            problem = "null is the paper's number for gray levels, and embeddings have none"
            raise UserError(f"{key}.steps", problem, "give steps and step_size, e.g. 10 and 0.1")
