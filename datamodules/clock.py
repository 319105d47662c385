"""When something is due that does not happen in every step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# optimizer steps of one pass over the samples of a stream
PassSteps = Callable[[str], float]


@dataclass(frozen=True)
class Clock:
    """The moments between two optimizer steps at which something is due.

    at: `steps`, as below; `validation`: before every validation and after the last step; `finish`:
        after the last step.
    first: optimizer steps before the first time, at least 0; below 1 a share of the run. 0: before
        the first step.
    steps: optimizer steps from one time to the next; None: see `passes`.
    passes: passes of a stream from one time to the next; 0: there is no next time.
    stream: the stream whose passes count.
    """

    at: Literal["steps", "validation", "finish"] = "steps"
    first: float = 0
    steps: int | None = None
    passes: float = 0
    stream: str = ""

    # -- the ways to make one ----------------------------------------------------------------------
    @classmethod
    def at_start(cls) -> "Clock":
        """Once, before the first step."""
        return cls()

    @classmethod
    def before_validation(cls) -> "Clock":
        """Before every validation, and after the last step."""
        return cls(at="validation")

    @classmethod
    def at_finish(cls) -> "Clock":
        """Once, after the last step."""
        return cls(at="finish")

    @classmethod
    def once(cls, first: float) -> "Clock":
        """Once, after `first` steps."""
        return cls(first=first)

    @classmethod
    def every_steps(cls, steps: int, first: float = 0) -> "Clock":
        """After `first` steps, and again after every `steps` more."""
        return cls(first=first, steps=steps)

    @classmethod
    def every_pass(cls, stream: str, passes: float = 1, first: float = 0) -> "Clock":
        """After `first` steps, and again whenever a stream has been read `passes` more times."""
        return cls(first=first, passes=passes, stream=stream)

    def __str__(self) -> str:
        if self.at == "validation":
            return "before every validation"
        if self.at == "finish":
            return "after the last step"
        again = ""
        if self.steps is not None:
            again = f"every {self.steps:,} steps"
        elif self.passes:
            count = "pass" if self.passes == 1 else f"{self.passes:g} passes"
            again = f"every {count} over the {self.stream} samples"
        first = "before the first step"
        if self.first:
            share = f"{self.first:.0%} of the run" if self.first < 1 else f"{self.first:,g} steps"
            first = f"after {share}"
        return f"{first} and after {again}" if again else first

    # -- when --------------------------------------------------------------------------------------
    def next_after(self, done: int, total: int, pass_steps: PassSteps) -> int | None:
        """The first time later than `done` steps, before the end of a run of `total` steps; None if
        there is none. `done` = -1: the first time of all."""
        if self.at != "steps":
            return None
        time = self.first_step(total)
        period = self.period(pass_steps)
        if done >= time:
            if math.isinf(period):
                return None
            # the times are first + ceil(k · period): a pass need not be a whole number of steps
            number = int((done - time) / period)
            later = (time + math.ceil(k * period) for k in range(number, number + 3))
            time = next(step for step in later if step > done)
        return time if time < total else None

    def first_step(self, total: int) -> int:
        return round(self.first * total) if self.first < 1 else round(self.first)

    def period(self, pass_steps: PassSteps) -> float:
        """Optimizer steps from one time to the next, at least 1; infinite without a next time."""
        if self.steps is not None:
            return float(self.steps)
        if not self.passes:
            return math.inf
        return max(self.passes * pass_steps(self.stream), 1.0)
