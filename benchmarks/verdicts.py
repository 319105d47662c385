"""Whether ours is at most so many times as long as another's, told by ratios that were taken round
by round."""

from collections.abc import Mapping
from math import comb
from statistics import median

from benchmarks.clock import Spread
from benchmarks.record import Record

CONFIDENCE = 0.95  # of the intervals that medians are told with


def interval(spread: Spread) -> tuple[float, float]:
    """Where the median lies with a confidence of 95 %, by order statistics: the k-th least and the
    k-th largest value, k as large as P(fewer than k of n fair coins) allows. With fewer than six
    values the least and the largest."""
    values = sorted(spread.values)
    count, k, tail = len(values), 0, 1.0
    while tail <= (1 - CONFIDENCE) / 2 * 2**count:
        k += 1
        tail += comb(count, k)
    k = max(k, 1)
    return values[k - 1], values[count - k]


def told(spread: Spread) -> str:
    low, high = interval(spread)
    return f"{median(spread.values):.3f} ({low:.3f}..{high:.3f})"


def apart(ratios: Mapping[str, Spread], most: float) -> tuple[list[str], bool | None]:
    """Whose median is above `most`, and the verdict: met where nobody's is, missed where somebody's
    whole interval is, None where every interval holds it, so that these repeats cannot tell."""
    above = [name for name, spread in ratios.items() if round(median(spread.values), 3) > most]
    sure = any(interval(ratios[name])[0] > most for name in above)
    return above, False if sure else None if above else True


def judged(
    record: Record, text: str, ratios: Mapping[str, Spread], most: float = 1.0, why: str = ""
) -> None:
    """One target over all of these. why: what a profile says of what is above."""
    above, met = apart(ratios, most)
    tied = [name for name in above if interval(ratios[name])[0] <= most]
    because = [why] if above and why else []
    if tied:
        because.append(
            f"no difference is shown where the interval holds {most:g}: {', '.join(tied)}"
        )
    said = ", ".join(f"{name} {told(spread)}" for name, spread in ratios.items())
    record.target(text, f"{said}; medians and their 95 % intervals", met, ". ".join(because))
