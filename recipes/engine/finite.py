"""Losses that are no numbers: noticed without waiting for the device, and named to the step, the
term, the samples."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from foundation.errors import UserError

SHOWN = 8  # sample numbers a line has room for


@dataclass(frozen=True)
class Trace:
    """What one micro-batch said: names of its losses, their values on the device, and the samples
    it was made of."""

    step: int
    names: tuple[str, ...]
    values: Tensor
    samples: dict[str, Tensor]


@dataclass
class Traces:
    """The micro-batches since the last transfer. A sum of losses is no number if one of them is
    none, so they are looked at only where a sum is not; keeping them costs no operation on the
    device."""

    kept: list[Trace] = field(default_factory=list)

    def add(self, trace: Trace) -> None:
        self.kept.append(trace)

    def clear(self) -> None:
        self.kept.clear()

    def check(self) -> None:
        """Raise `UserError` for the first micro-batch with a loss that is no number."""
        for trace in self.kept:
            values = dict(zip(trace.names, trace.values.tolist(), strict=False))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                raise UserError(sentence(trace, values, bad))


def sentence(trace: Trace, values: dict[str, float], bad: list[str]) -> str:
    """The line that a person gets."""
    terms = [name for name in bad if name != "loss"] or bad
    said = ", ".join(f"{name} is {values[name]}" for name in terms)
    samples = []
    for stream, index in trace.samples.items():
        numbers = [str(number) for number in index[: SHOWN + 1].tolist()]
        samples.append(
            f"{stream} {', '.join(numbers[:SHOWN])}{' …' if len(numbers) > SHOWN else ''}"
        )
    return (
        f"step {trace.step + 1}: {said}; samples: {'; '.join(samples)}. No checkpoint was written "
        "since; "
        "lower optimizer.lr, set trainer.gradient_clip_val=1, or leave such batches out by "
        "trainer.nonfinite=skip"
    )
