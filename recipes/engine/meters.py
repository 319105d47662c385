"""Training metrics that stay on the device until they are logged: one transfer per interval, exact
over ranks."""

import time
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from foundation.devices import precise
from foundation.distributed import gather_rows, global_sum
from recipes.step.step import PseudoLabels

Ratio = tuple[Tensor, Tensor]
HELD = 64  # steps stored before they are summed: a sum of many costs no more than a sum of two


class Interval:
    """Sums over steps with equal names: the numerators, then the denominators of the ratios. The
    denominator of a scalar is the number of `steps`, counted on the host. Sums are float64, so that
    their grouping changes no more than the last bit."""

    def __init__(self, sums: Tensor | None = None, steps: int = 0):
        self.steps = steps
        self._sums = sums
        self._held: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        self._held.append(values)
        self.steps += 1
        if len(self._held) == HELD:
            self.settle()

    def settle(self) -> Tensor:
        """The sums of all steps, [n]."""
        if self._held:
            last = precise(torch.stack(self._held)).sum(0)
            self._sums = last if self._sums is None else self._sums + last
            self._held.clear()
        assert self._sums is not None
        return self._sums

    def complete(self, names: int) -> Tensor:
        """All numerators, then all denominators, [2 · names]."""
        sums = self.settle()
        counts = sums.new_full((2 * names - len(sums),), float(self.steps))
        return torch.cat([sums[:names], counts, sums[names:]])


def pseudo_label_ratios(
    mask: Tensor, confidence: Tensor, labels: Tensor, truth: Tensor | None
) -> dict[str, Ratio]:
    """mask_rate = Σ mask / U, confidence = Σ max q / U, and, where hidden labels exist (never used
    in a loss), pseudo_accuracy = Σ mask·[label = truth] / Σ mask over the samples with a hidden
    label. All [U], in float64."""
    mask = precise(mask)
    size = mask.new_full((), float(len(mask)))
    ratios = {"mask_rate": (mask.sum(), size), "confidence": (precise(confidence).sum(), size)}
    if truth is not None:
        known = mask * (truth >= 0)
        ratios["pseudo_accuracy"] = ((known * (labels == truth)).sum(), known.sum())
    return ratios


class Stopwatch:
    """Training time of a run in seconds, the time before an interruption included."""

    def __init__(self, before: float = 0.0):
        self._before = before
        self._began = 0.0

    @property
    def seconds(self) -> float:
        if not self._began:
            return self._before
        return self._before + (time.perf_counter() - self._began)

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        self._before = self.seconds
        self._began = 0.0


class Meters:
    """Means of named scalars over an interval, each as Σ numerator / Σ denominator.

    Adding costs one `torch.stack` per step, for any number of names; nothing is copied to the host.
    There are separate sums for each set of names, so that a term may appear or disappear within an
    interval. Pseudo-labels are stored per sample and counted once per interval; until then they
    must not be changed in place.
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Interval] = {}
        self._pseudo: dict[tuple[str, bool], list[tuple[Tensor, ...]]] = {}

    @torch.no_grad()
    def add(self, scalars: dict[str, Tensor], ratios: dict[str, Ratio]) -> Tensor:
        """Add one step's scalars (each with denominator 1) and ratios (numerator, denominator).
        Returns the values of this step, scalars first, on the device."""
        names = (*scalars, *ratios)
        if not names:
            return torch.empty(0)
        numerators, denominators = zip(*ratios.values(), strict=True) if ratios else ((), ())
        values = torch.stack((*scalars.values(), *numerators, *denominators))
        interval = self.sums.get(names)
        if interval is None:
            interval = self.sums[names] = Interval()
        interval.add(values)
        return values

    def add_pseudo_labels(self, suffix: str, pseudo: PseudoLabels, truth: Tensor | None) -> None:
        """Add a step's pseudo-labels and their hidden labels [U]; the suffix is appended to the
        names of their ratios."""
        columns = (pseudo.mask, pseudo.confidence, pseudo.labels)
        held = self._pseudo.setdefault((suffix, truth is not None), [])
        held.append(columns if truth is None else (*columns, truth))
        if len(held) == HELD:
            self._count_pseudo_labels()

    @torch.no_grad()
    def _count_pseudo_labels(self) -> None:
        pseudo = self._pseudo
        self._pseudo = {}
        for (suffix, known), held in pseudo.items():
            mask, confidence, labels, *truth = map(torch.cat, zip(*held, strict=True))
            ratios = pseudo_label_ratios(mask, confidence, labels, truth[0] if known else None)
            self.add({}, {f"{name}{suffix}": ratio for name, ratio in ratios.items()})

    def flush(self) -> dict[str, float]:
        """The means since the last flush, over all ranks; without names whose denominator is 0."""
        self._count_pseudo_labels()
        if not self.sums:
            return {}
        layout = list(self.sums)
        sums = global_sum(torch.cat([self.sums[names].complete(len(names)) for names in layout]))
        # float32: the last bit in float64 depends on whether a checkpoint was written in between
        flat = iter(sums.float().tolist())
        self.sums = {}
        total: dict[str, list[float]] = {}
        for names in layout:
            numerators = list(islice(flat, len(names)))
            denominators = list(islice(flat, len(names)))
            columns = zip(names, numerators, denominators, strict=True)
            for name, numerator, denominator in columns:
                entry = total.setdefault(name, [0.0, 0.0])
                entry[0] += numerator
                entry[1] += denominator
        return {name: n / d for name, (n, d) in total.items() if d}

    def state(self) -> list[dict[str, Any]]:
        """The sums of each rank since the last flush, one row each, for a checkpoint between two
        transfers."""
        self._count_pseudo_labels()
        entries = []
        for names, interval in self.sums.items():
            sums = interval.settle()
            steps = sums.new_full((1,), float(interval.steps))
            ranks = gather_rows(torch.cat([sums, steps])[None]).cpu()
            entries.append(
                {"names": list(names), "values": ranks[:, :-1], "steps": ranks[:, -1].long()}
            )
        return entries

    def restore(
        self, entries: list[dict[str, Any]], device: torch.device, rank: int, world: int
    ) -> None:
        """Resume from `state`, each rank from its row; with another number of ranks the first rank
        gets the sum."""
        for entry in entries:
            values = entry["values"]
            steps = entry["steps"]
            if len(values) != world:
                first = (torch.arange(world) == 0)[:, None]
                values = first * values.sum(0)
                steps = first[:, 0] * steps.sum(0)
            sums = precise(values[rank].to(device))
            self.sums[tuple(entry["names"])] = Interval(sums, int(steps[rank]))
