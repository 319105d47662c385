"""Robust accuracy under one attack of `attacks/`: what a search by queries costs, and what an
attacker does who knows of the run's detectors."""

import torch
from torch import Tensor

from foundation.distributed import gathering_device
from methods.adversarial.attacks.attack import Attack, Draws, QueryAttack
from methods.adversarial.attacks.losses import Loss, Objective
from methods.adversarial.attacks.threat import Norm, Threat, per_sample
from methods.adversarial.detection import Detection
from methods.adversarial.query_count import QueryCount, of_restarts
from methods.adversarial.reported_victim import ReportedVictim
from methods.adversarial.robust_accuracy import DESCRIBED, Robustness, successes
from recipes.contract.environment import Environment
from recipes.step import Embedded


class Evading:
    """value - weight · Σ over detectors of how far their score is above its alarm: the joint
    objective of an attacker who knows them, after He et al., WOOT 2017, arXiv 1706.04701.

    Of all points that the attack tries, `found` has for every sample the misclassified one with the
    smallest excess over the alarms.
    """

    def __init__(self, victim: ReportedVictim, value: Objective, weight: float):
        self.victim = victim
        self.value = value
        self.weight = weight
        self.margin = victim.objective("margin")
        self.point = victim.x
        self.least = torch.full((len(victim.x),), torch.inf, device=victim.x.device)

    def excess(self, x: Tensor) -> Tensor:
        """[N]: 0 for a sample that no detector flags."""
        total = torch.zeros(len(x), device=x.device)
        for remark in self.victim.remarks(x).values():
            if remark.alarm is not None:
                total = total + (remark.values - remark.alarm).clamp_min(0)
        return total

    def __call__(self, x: Tensor) -> Tensor:
        excess = self.excess(x)
        self.keep(x.detach(), excess.detach())
        return self.value(x) - self.weight * excess

    @torch.no_grad()
    def keep(self, x: Tensor, excess: Tensor) -> None:
        better = (self.margin(x) >= 0) & (excess < self.least)
        self.least = torch.where(better, excess, self.least)
        self.point = torch.where(per_sample(better, x), x, self.point)

    @torch.no_grad()
    def found(self, last: Tensor) -> Tensor:
        """last: the point that the attack returned; the result where none was misclassified."""
        self.keep(last, self.excess(last))
        return torch.where(per_sample(self.least.isfinite(), last), self.point, last)


class UnderAttack(Robustness):
    """Robustness under one attack of `methods.adversarial.attacks`.

    Of an attack by queries it also measures how many they are (`QueryCount`). Where methods flag
    samples, it measures what they make of the attack (`Detection`), and of one that knows them.

    loss: loss that the attack raises: `ce` (papers), `margin` or `dlr` (from three classes).
    draws: gradients averaged, at least 1; 1; more for networks that draw random numbers.
    evade: weight of the detectors' scores in the attack that knows of them, at least 0; 0: there is
        none.
    """

    def __init__(
        self,
        algorithm: Attack,
        norm: Norm,
        eps: float | str,
        samples: int | None,
        loss: Loss = "ce",
        draws: int = 1,
        restarts: int = 1,
        evade: float = 0.0,
    ):
        super().__init__(norm, eps, samples)
        self.algorithm = algorithm
        self.by_gradient = algorithm.by_gradient
        self.loss = loss
        self.draws = draws
        self.restarts = restarts
        self.evade = evade
        self.evaded = Detection()
        budgets = algorithm.budgets() if isinstance(algorithm, QueryAttack) else []
        self.spent = QueryCount(budgets)
        for name in DESCRIBED:
            if hasattr(algorithm, name):
                setattr(self, name, getattr(algorithm, name))

    def check(self, environment: Environment) -> None:
        self.algorithm.check("evaluate.attack", self.norm, environment)

    def attack(self, victim: ReportedVictim, threat: Threat, draw: Draws) -> Tensor:
        value = victim.objective(self.loss, self.draws)
        return self.algorithm(victim.raising(value), threat, draw)

    def points(self, victim: ReportedVictim, threat: Threat) -> list[Tensor]:
        if not isinstance(self.algorithm, QueryAttack):
            return super().points(victim, threat)
        found = [self.algorithm.queried(victim, threat, draw) for draw in self.draws_of(victim)]
        self.spent.add(correct(victim), of_restarts(found))
        return [result.x for result in found]

    def measure(self, victim: ReportedVictim) -> None:
        super().measure(victim)
        if not self.evade or not has_alarm(victim):
            return
        threat = Threat.around(Embedded(victim.x, victim.mask), self.norm, self.eps)
        value = victim.objective(self.loss, self.draws)
        points = [victim.x]
        for draw in self.draws_of(victim):
            evading = Evading(victim, value, self.evade)
            points.append(evading.found(self.algorithm(victim.raising(evading), threat, draw)))
        success = successes(victim, [victim.logits(point) for point in points])
        self.evaded.add(victim, points, success)

    def compute(self) -> dict[str, Tensor]:
        found = super().compute() | self.evaded.compute("adaptive_")
        if isinstance(self.algorithm, QueryAttack):
            found |= self.spent.compute(gathering_device())
        return found

    def reset(self) -> None:
        super().reset()
        self.evaded.reset()
        self.spent.reset()


def has_alarm(victim: ReportedVictim) -> bool:
    """Whether a method of the run flags samples."""
    return any(remark.alarm is not None for remark in victim.remarks(victim.x).values())


def correct(victim: ReportedVictim) -> Tensor:
    """bool [N]: every known label is predicted on the clean sample."""
    logits = victim.logits(victim.x)
    known = [(target < 0) | (logits[t].argmax(1) == target) for t, target in victim.targets.items()]
    labeled = torch.stack([target >= 0 for target in victim.targets.values()]).any(0)
    return torch.stack(known).all(0) & labeled
