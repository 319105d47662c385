"""Training metrics that stay on the device until they are logged: one transfer an interval, exact over ranks."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.statistics import gather_rows
from recipes.terms import global_sum

Ratio = tuple[Tensor, Tensor]


@dataclass
class Interval:
    """What steps with equal names added up to: `values` are the numerators, then the denominators of the ratios. The
    denominator of a scalar is the number of `steps`, which the host counts."""

    values: Tensor
    steps: int = 1

    def complete(self, names: int) -> Tensor:
        """All numerators, then all denominators, [2 · names]."""
        scalars = 2 * names - len(self.values)
        counts = self.values.new_full((scalars,), float(self.steps))
        return torch.cat([self.values[:names], counts, self.values[names:]])


class Stopwatch:
    """Seconds that a run has trained, those before an interruption included."""

    def __init__(self, before: float = 0.0):
        self._before, self._began = before, 0.0

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._began if self._began else 0.0)

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        self._before, self._began = self.seconds, 0.0


class Meters:
    """Means of named scalars over an interval, each as Σ numerator / Σ denominator.

    Adding costs one stack and one addition a step, however many names there are; nothing is copied to the host.
    Sums are kept by the set of names a step brings, so that a term may appear or vanish within an interval.
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Interval] = {}

    @torch.no_grad()
    def add(self, scalars: dict[str, Tensor], ratios: dict[str, Ratio]) -> Tensor:
        """Add one step's scalars (each with denominator 1) and ratios (numerator, denominator). Returns the step's own
        numbers, scalars first, on the device."""
        names = (*scalars, *ratios)
        if not names:
            return torch.empty(0)
        numerators, denominators = zip(*ratios.values(), strict=True) if ratios else ((), ())
        values = torch.stack((*scalars.values(), *numerators, *denominators)).float()
        interval = self.sums.get(names)
        if interval is None:
            self.sums[names] = Interval(values.clone())
        else:
            interval.values += values
            interval.steps += 1
        return values

    def flush(self) -> dict[str, float]:
        """The means since the last flush, over all ranks; names whose denominator stayed zero are left out."""
        if not self.sums:
            return {}
        layout = list(self.sums)
        flat = global_sum(torch.cat([self.sums[names].complete(len(names)) for names in layout])).tolist()
        self.sums = {}
        total: dict[str, list[float]] = {}
        for names in layout:
            values, flat = flat[: 2 * len(names)], flat[2 * len(names) :]
            for name, numerator, denominator in zip(names, values, values[len(names) :], strict=False):
                entry = total.setdefault(name, [0.0, 0.0])
                entry[0] += numerator
                entry[1] += denominator
        return {name: n / d for name, (n, d) in total.items() if d}

    def state(self) -> list[dict[str, Any]]:
        """What each rank has added since the last flush, a row each: a checkpoint between two transfers keeps it."""
        kept = []
        for names, interval in self.sums.items():
            steps = interval.values.new_full((1,), float(interval.steps))
            ranks = gather_rows(torch.cat([interval.values, steps])[None]).cpu()
            kept.append({"names": list(names), "values": ranks[:, :-1], "steps": ranks[:, -1].long()})
        return kept

    def restore(self, kept: list[dict[str, Any]], device: torch.device, rank: int, world: int) -> None:
        """Go on from `state`, each rank with its row; on another number of ranks the first takes the sum."""
        for entry in kept:
            values, steps = entry["values"], entry["steps"]
            if len(values) != world:
                first = (torch.arange(world) == 0)[:, None]
                values, steps = first * values.sum(0), first[:, 0] * steps.sum(0)
            self.sums[tuple(entry["names"])] = Interval(values[rank].to(device), int(steps[rank]))
