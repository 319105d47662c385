"""How the weight of a term grows over a run, and how far back a moving average reaches."""

import math
from dataclasses import dataclass
from typing import Literal

from recipes.step.step import Progress

RampKind = Literal["constant", "linear", "sigmoid"]


@dataclass(frozen=True)
class Ramp:
    """r = 0 before `start` and 1 after `end`, both shares of the run's optimizer steps. Between,
    with s from 0 to 1: linear s, sigmoid exp(-5(1-s)²) (.0067 at s = 0), constant 1."""

    kind: RampKind = "constant"
    start: float = 0.0
    end: float = 0.0

    def __call__(self, progress: Progress) -> float:
        done = progress.step / max(progress.total, 1)
        if done < self.start:
            return 0.0
        if self.kind == "constant" or self.end <= self.start:
            return 1.0
        s = min((done - self.start) / (self.end - self.start), 1.0)
        return s if self.kind == "linear" else math.exp(-5.0 * (1.0 - s) ** 2)


def decay_within(decay: float, horizon: float | None, total_steps: int) -> float:
    """The decay of a moving average that covers at most a share of the run: min(decay, 1 - 1/max(h
    · total_steps, 2)) for a horizon h; `decay` for None."""
    if horizon is None:
        return decay
    return min(decay, 1.0 - 1.0 / max(horizon * total_steps, 2.0))
