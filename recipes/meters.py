"""Training metrics that stay on the device until they are logged: one transfer an interval, exact over ranks."""

import torch
from torch import Tensor

from recipes.terms import global_sum

Ratio = tuple[Tensor, Tensor]


class Meters:
    """Means of named scalars over an interval, each as Σ numerator / Σ denominator.

    Adding costs one stack and one addition a step, however many names there are; nothing is copied to the host.
    Sums are kept by the set of names a step brings, so that a term may appear or vanish within an interval.
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def add(self, scalars: dict[str, Tensor], ratios: dict[str, Ratio]) -> None:
        """Add one step's scalars (each with denominator 1) and ratios (numerator, denominator)."""
        names = (*scalars, *ratios)
        if not names:
            return
        numerators = [*scalars.values(), *(numerator for numerator, _ in ratios.values())]
        one = torch.ones((), device=numerators[0].device)
        denominators = [*([one] * len(scalars)), *(denominator for _, denominator in ratios.values())]
        values = torch.stack([value.detach().float() for value in numerators + denominators])
        if names in self.sums:
            self.sums[names] += values
        else:
            self.sums[names] = values

    def flush(self) -> dict[str, float]:
        """The means since the last flush, over all ranks; names whose denominator stayed zero are left out."""
        if not self.sums:
            return {}
        layout = list(self.sums)
        flat = global_sum(torch.cat([self.sums[names] for names in layout])).tolist()
        self.sums = {}
        total: dict[str, list[float]] = {}
        for names in layout:
            values, flat = flat[: 2 * len(names)], flat[2 * len(names) :]
            for name, numerator, denominator in zip(names, values, values[len(names) :], strict=False):
                entry = total.setdefault(name, [0.0, 0.0])
                entry[0] += numerator
                entry[1] += denominator
        return {name: n / d for name, (n, d) in total.items() if d}
