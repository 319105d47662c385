"""Metric values as text (percent, durations, bytes) and the order in which they are listed."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SHARES = (
    *("accuracy", "mask_rate", "confidence", "recall", "precision", "map@r", "f1", "top", "ece"),
    *("flagged", "success", "detected", "false_alarms", "tpr@"),
)
GROUPS = ("test", "val", "train")
LOWER_IS_BETTER = frozenset({"loss", "ece"})


class Tile(NamedTuple):
    """A headline number of the report: its name, its value, and a smaller text below the value."""

    name: str
    value: str
    beside: str = ""


def is_share(name: str) -> bool:
    """Whether a metric of this name is a share in [0, 1], shown in percent."""
    last = name.rsplit("/", 1)[-1]
    return any(share in last for share in SHARES)


def lower_is_better(name: str) -> bool:
    """Whether a monitored metric is minimized: losses and the calibration error."""
    last = name.rsplit("/", 1)[-1]
    return last.endswith("loss") or last in LOWER_IS_BETTER


def is_seconds(name: str) -> bool:
    return name.endswith("seconds")


def is_bytes(name: str) -> bool:
    return name.endswith("bytes")


def is_cost(name: str) -> bool:
    """Whether it is time or memory of the run, not a metric of the network."""
    return "/" not in name and (is_seconds(name) or is_bytes(name))


def tested(monitor: str) -> str:
    """The test metric of a monitored one: `val/recall@1` -> `test/recall@1`, and of a further set
    `sketch_val/accuracy` -> `sketch_test/accuracy`."""
    part, _, metric = monitor.partition("/")
    further = part.removesuffix("val") if part.endswith("_val") else ""
    return f"{further}test/{metric}"


def value_text(name: str, value: float | None) -> str:
    """A metric's value: `96.13 %`, `1 min 12 s`, `1.41 GiB`, or four significant digits; a dash for
    None and NaN."""
    if value is None or not math.isfinite(value):
        return "–"
    if is_share(name):
        return f"{100 * value:.2f} %"
    if is_bytes(name):
        return memory(value)
    return clock(value) if is_seconds(name) else f"{value:.4g}"


def memory(count: float) -> str:
    """An amount of memory: `512 MiB`, `1.41 GiB`."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.0f} MiB"


def clock(seconds: float) -> str:
    """A duration: `0.4 s`, `31 s`, `2 min 05 s`, `3 h 20 min`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def raw_twin(name: str) -> str:
    """The name of the same metric of the raw weights: `test/accuracy` -> `test/raw/accuracy`."""
    group, _, rest = name.partition("/")
    return f"{group}/raw/{rest}"


def paired(final: Mapping[str, float]) -> list[tuple[str, float | None, float | None]]:
    """(name, value, raw value) of all final values: test first, then validation, training, and the
    rest.

    Within a group accuracies come first. A raw value without a reported one gets a row of its own,
    with None as value.
    """
    rows: dict[str, list[float | None]] = {}
    for name, value in final.items():
        group, _, rest = name.partition("/")
        if rest.startswith("raw/"):
            rows.setdefault(f"{group}/{rest.removeprefix('raw/')}", [None, None])[1] = value
        else:
            rows.setdefault(name, [None, None])[0] = value
    return [(name, *rows[name]) for name in sorted(rows, key=_rank)]  # type: ignore[misc]


Row = tuple[str, float | None, float | None]


def headline_first(rows: Sequence[Row], monitor: str) -> list[Row]:
    """The rows with that of the monitored metric in front: of its test value, else its own."""
    names = [name for name, *_ in rows]
    first = next((name for name in (tested(monitor), monitor) if name in names), None)
    return sorted(rows, key=lambda row: row[0] != first)


def _rank(name: str) -> tuple[int, str, int, int]:
    """The set's own parts before those of further sets, `sketch_test`."""
    part, slash, _ = name.partition("/")
    further, _, group = part.rpartition("_")
    if slash and group in GROUPS:
        place = GROUPS.index(group)
    else:
        further = ""
        place = len(GROUPS) + is_seconds(name) + 2 * is_bytes(name)
    accuracies_first = (not name.endswith("/accuracy")) + (not is_share(name))
    return place, further, name.count("/"), accuracies_first


def headline(
    final: Mapping[str, float], most: int = 5, monitor: str = "val/accuracy"
) -> list[Tile]:
    """The first tiles of the page: test metrics, or validation metrics where there are no test
    metrics; that of the monitored metric is the first, then the same metric of further sets."""
    rows = headline_first(paired(final), monitor)
    groups = {name.partition("/")[0] for name, *_ in rows if "/" in name}
    group = "test" if "test" in groups else "val"
    metric = monitor.partition("/")[2]
    own = [row for row in rows if row[0].startswith(f"{group}/")]
    further = [row for row in rows if row[0].endswith(f"_{group}/{metric}") and row not in own]
    tiles = []
    for name, value, raw in [*own[:1], *further, *own[1:]]:
        title = name.replace("_", " ").replace("/", " · ")
        if value is None:
            tiles.append(Tile(title, value_text(name, raw)))
        else:
            beside = "" if raw is None else f"raw: {value_text(name, raw)}"
            tiles.append(Tile(title, value_text(name, value), beside))
    return tiles[:most]
