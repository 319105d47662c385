"""Losses that are NaN or infinite: detected without a device sync, and reported with step, term and
samples."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from foundation.errors import UserError

SHOWN = 8  # sample indices in a message


@dataclass(frozen=True)
class Trace:
    """One micro-batch: the names of its losses, their values on the device, and its samples."""

    step: int
    names: tuple[str, ...]
    values: Tensor
    samples: dict[str, Tensor]


@dataclass
class Traces:
    """The micro-batches since the last transfer. A sum of losses is not finite if one loss is not,
    so they are checked only if the sum is not finite; storing them needs no device operation."""

    kept: list[Trace] = field(default_factory=list)

    def add(self, trace: Trace) -> None:
        self.kept.append(trace)

    def clear(self) -> None:
        self.kept.clear()

    def check(self) -> None:
        """Raise `UserError` for the first micro-batch with a loss that is NaN or infinite."""
        for trace in self.kept:
            values = dict(zip(trace.names, trace.values.tolist(), strict=False))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad:
                raise UserError(message(trace, values, bad))


def message(trace: Trace, values: dict[str, float], bad: list[str]) -> str:
    """The message for a micro-batch whose losses `bad` are not finite."""
    # the total loss only if no term explains it
    terms = [name for name in bad if name != "loss"] or bad
    losses = ", ".join(f"{name} is {values[name]}" for name in terms)
    samples = []
    for stream, index in trace.samples.items():
        numbers = ", ".join(str(number) for number in index[:SHOWN].tolist())
        more = " …" if len(index) > SHOWN else ""
        samples.append(f"{stream} {numbers}{more}")
    return (
        f"step {trace.step + 1}: {losses}; samples: {'; '.join(samples)}. No checkpoint was "
        "written since; lower optimizer.lr, set trainer.gradient_clip_val=1, or skip such batches "
        "by trainer.nonfinite=skip"
    )
