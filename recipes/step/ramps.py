"""How the weight of a term grows over a run."""

import math
from dataclasses import dataclass
from typing import Literal

from recipes.step.step import Progress

RampKind = Literal["constant", "linear", "sigmoid"]


@dataclass(frozen=True)
class Ramp:
    """r = 0 before `start`, 1 from `end` on, both as shares of the run's optimizer steps; with s ∈
    [0, 1] the way between: linear s, sigmoid exp(-5(1-s)²) (.0067 at s = 0), constant 1."""

    kind: RampKind = "constant"
    start: float = 0.0
    end: float = 0.0

    def __call__(self, progress: Progress) -> float:
        done = progress.step / max(progress.total, 1)
        if done < self.start:
            return 0.0
        if self.kind == "constant" or self.end <= self.start:
            return 1.0
        way = min((done - self.start) / (self.end - self.start), 1.0)
        return way if self.kind == "linear" else math.exp(-5.0 * (1.0 - way) ** 2)
