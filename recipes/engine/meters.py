"""Training metrics that stay on the device until they are logged: one transfer an interval, exact
over ranks."""

import time
from typing import Any

import torch
from torch import Tensor

from foundation.devices import precise
from foundation.distributed import gather_rows, global_sum
from recipes.step.step import PseudoLabels

Ratio = tuple[Tensor, Tensor]
HELD = 64  # steps whose numbers are held one by one: adding up many costs no more than adding two


class Interval:
    """What steps with equal names added up to: the numerators, then the denominators of the ratios.
    The denominator of a scalar is the number of `steps`, which the host counts. Sums are float64,
    so that they depend on when they are taken by no more than their last bit."""

    def __init__(self, sums: Tensor | None = None, steps: int = 0):
        self.steps, self._sums = steps, sums
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

    Adding costs one stack a step, however many names there are; nothing is copied to the host. Sums
    are kept by the set of names a step brings, so that a term may appear or vanish within an
    interval. Pseudo-labels are held by sample and counted once an interval; until then nobody may
    change them in place.
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Interval] = {}
        self._pseudo: dict[tuple[str, bool], list[tuple[Tensor, ...]]] = {}

    @torch.no_grad()
    def add(self, scalars: dict[str, Tensor], ratios: dict[str, Ratio]) -> Tensor:
        """Add one step's scalars (each with denominator 1) and ratios (numerator, denominator).
        Returns the step's own numbers, scalars first, on the device."""
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
        """Add a step's pseudo-labels and the hidden labels beside them [U]; names of their ratios
        get the suffix."""
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
        """The means since the last flush, over all ranks; names whose denominator stayed zero are
        left out."""
        self._count_pseudo_labels()
        if not self.sums:
            return {}
        layout = list(self.sums)
        sums = global_sum(torch.cat([self.sums[names].complete(len(names)) for names in layout]))
        flat = (
            sums.float().tolist()
        )  # a sum's last bit in float64 may tell when it was taken: at a checkpoint or not
        self.sums = {}
        total: dict[str, list[float]] = {}
        for names in layout:
            values, flat = flat[: 2 * len(names)], flat[2 * len(names) :]
            for name, numerator, denominator in zip(
                names, values, values[len(names) :], strict=False
            ):
                entry = total.setdefault(name, [0.0, 0.0])
                entry[0] += numerator
                entry[1] += denominator
        return {name: n / d for name, (n, d) in total.items() if d}

    def state(self) -> list[dict[str, Any]]:
        """What each rank has added since the last flush, a row each: a checkpoint between two
        transfers keeps it."""
        self._count_pseudo_labels()
        kept = []
        for names, interval in self.sums.items():
            sums = interval.settle()
            steps = sums.new_full((1,), float(interval.steps))
            ranks = gather_rows(torch.cat([sums, steps])[None]).cpu()
            kept.append(
                {"names": list(names), "values": ranks[:, :-1], "steps": ranks[:, -1].long()}
            )
        return kept

    def restore(
        self, kept: list[dict[str, Any]], device: torch.device, rank: int, world: int
    ) -> None:
        """Go on from `state`, each rank with its row; on another number of ranks the first takes
        the sum."""
        for entry in kept:
            values, steps = entry["values"], entry["steps"]
            if len(values) != world:
                first = (torch.arange(world) == 0)[:, None]
                values, steps = first * values.sum(0), first[:, 0] * steps.sum(0)
            self.sums[tuple(entry["names"])] = Interval(
                precise(values[rank].to(device)), int(steps[rank])
            )
