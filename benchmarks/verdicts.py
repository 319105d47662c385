"""Whether ours takes at most so many times as long as another, judged by ratios that were taken
round by round."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import comb
from statistics import median

from benchmarks.record import Record

CONFIDENCE = 0.95  # of the intervals that stand behind medians


@dataclass
class Spread:
    """Median, least and largest of the repeats."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.values)

    def text(self, scale: float = 1e3, digits: int = 3) -> str:
        low, high = min(self.values) * scale, max(self.values) * scale
        return f"{self.median * scale:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"

    def interval(self) -> tuple[float, float]:
        """Where the median is with a confidence of 95 %, by order statistics: the k-th least and
        the k-th largest value, k as large as P(fewer than k of n fair coins) allows. With fewer
        than six values the least and the largest."""
        values = sorted(self.values)
        count, k, tail = len(values), 0, 1.0
        while tail <= (1 - CONFIDENCE) / 2 * 2**count:
            k += 1
            tail += comb(count, k)
        k = max(k, 1)
        return values[k - 1], values[count - k]

    def interval_text(self) -> str:
        low, high = self.interval()
        return f"{self.median:.3f} ({low:.3f}..{high:.3f})"


def listed(ratios: Mapping[str, Spread]) -> str:
    return ", ".join(f"{name} {ratio.interval_text()}" for name, ratio in ratios.items())


def apart(ratios: Mapping[str, Spread], most: float) -> tuple[list[str], bool | None]:
    """Whose median is above `most`, and the verdict: met where nobody's is, missed where somebody's
    whole interval is, None where every interval holds it, so that these repeats cannot tell."""
    above = [name for name, ratio in ratios.items() if round(ratio.median, 3) > most]
    if not above:
        return above, True
    sure = any(ratios[name].interval()[0] > most for name in above)
    return above, False if sure else None


def judged(
    record: Record, text: str, ratios: Mapping[str, Spread], most: float = 1.0, why: str = ""
) -> None:
    """One target over all of these. why: the reason where it is missed."""
    above, met = apart(ratios, most)
    tied = [name for name in above if ratios[name].interval()[0] <= most]
    reasons = [why] if above and why else []
    if tied:
        names = ", ".join(tied)
        reasons.append(f"no difference is shown where the interval holds {most:g}: {names}")
    measured = f"{listed(ratios)}; medians and their 95 % intervals"
    record.target(text, measured, met, ". ".join(reasons))
