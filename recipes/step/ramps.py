"""How the weight of a term grows over a run."""

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
