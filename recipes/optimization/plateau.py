"""A schedule that follows the run's monitor: the rate falls where validations stop improving."""

import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from foundation.types import Share, ShareBelowOne, Steps
from recipes.optimization.schedulers import Schedule, group_factors, set_rates

FALLEN = "fallen"  # key of a checkpoint's scheduler: the factor of all falls so far


class PlateauScheduler(LambdaLR):
    """LambdaLR with the factor `fallen`, which validations lower. What it counts is part of its
    state, so a resumed run falls at the same validations."""

    def __init__(self, optimizer: Optimizer, settings: "Plateau", total_steps: int):
        self.settings = settings
        self.fallen = 1.0
        self.best: float | None = None
        self.waited = 0
        self.resting = 0

        def scheduled(step: int) -> float:
            return self.fallen * settings.factor(step, total_steps)

        super().__init__(optimizer, group_factors(optimizer, scheduled))

    def validated(self, value: float, minimize: bool) -> bool:
        """Count a validation, and lower the rates if it is one too many without a better monitor.
        Returns whether they fell."""
        if self.is_better(value, minimize):
            self.best = value
            self.waited = 0
        else:
            self.waited += 1
        if self.resting:
            self.resting -= 1
            self.waited = 0
        if self.waited <= self.settings.patience:
            return False
        self.waited = 0
        self.resting = self.settings.cooldown
        before = self.fallen
        self.fallen = max(before * self.settings.gamma, self.settings.final)
        set_rates(self)
        return self.fallen < before

    def is_better(self, value: float, minimize: bool) -> bool:
        """Whether a value is better than the best one by the relative threshold; NaN never is."""
        if self.best is None:
            return not math.isnan(value)
        if minimize:
            return value < self.best * (1 - self.settings.threshold)
        return value > self.best * (1 + self.settings.threshold)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        del state["settings"]  # the config's
        return state


@dataclass(frozen=True)
class Plateau(Schedule):
    """gamma^m, m the number of falls: one whenever more than `patience` validations in a row had no
    better `monitor` than the best one before (torch's ReduceLROnPlateau).

    gamma: factor at each fall, in [0, 1); 0.1.
    patience: validations without a better monitor that are accepted, at least 0; 2.
    threshold: relative change of the monitor that counts as better, 0 to 1; 1e-4.
    cooldown: validations after a fall that are not counted, at least 0; 0.
    final: smallest factor of the base rate, 0 to 1; 0.
    """

    gamma: ShareBelowOne = 0.1
    patience: Steps = 2
    threshold: Share = 1e-4
    cooldown: Steps = 0
    final: Share = 0.0

    def curve(self, u: float) -> float:
        return 1.0

    def scheduler(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        return PlateauScheduler(optimizer, self, total_steps)
