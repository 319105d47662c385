"""Numbers as people read them: shares in percent, times as clocks, and which of a run's values come
first."""

import math
from collections.abc import Mapping
from typing import NamedTuple

SHARES = ("accuracy", "mask_rate", "confidence", "recall", "precision", "map@r", "f1")
GROUPS = ("test", "val", "train")


class Tile(NamedTuple):
    """A headline number: what it is, its value, and what stands beside it."""

    name: str
    value: str
    beside: str = ""


def is_share(name: str) -> bool:
    """Whether a metric of this name is a share in [0, 1] that reads better in percent."""
    last = name.rsplit("/", 1)[-1]
    return any(share in last for share in SHARES)


def is_seconds(name: str) -> bool:
    return name.endswith("seconds")


def is_bytes(name: str) -> bool:
    return name.endswith("bytes")


def value_text(name: str, value: float | None) -> str:
    """A metric's value: `96.13 %`, `1 min 12 s`, `1.41 GiB`, or four significant digits; a dash for
    none and NaN."""
    if value is None or not math.isfinite(value):
        return "–"
    if is_share(name):
        return f"{100 * value:.2f} %"
    if is_bytes(name):
        return memory(value)
    return clock(value) if is_seconds(name) else f"{value:.4g}"


def memory(count: float) -> str:
    """An amount of memory: `512 MiB`, `1.41 GiB`."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


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
    """The name of the same metric of the raw network, trained and no more: `test/accuracy` ->
    `test/raw/accuracy`."""
    group, _, rest = name.partition("/")
    return f"{group}/raw/{rest}"


def paired(final: Mapping[str, float]) -> list[tuple[str, float | None, float | None]]:
    """(name, value, raw value) of all final values: test first, then validation, training, and the
    rest.

    Within a group accuracies come first. A raw value without a reported twin keeps its own name and
    the raw column.
    """
    rows: dict[str, list[float | None]] = {}
    for name, value in final.items():
        group, _, rest = name.partition("/")
        if rest.startswith("raw/"):
            rows.setdefault(f"{group}/{rest.removeprefix('raw/')}", [None, None])[1] = value
        else:
            rows.setdefault(name, [None, None])[0] = value

    def rank(name: str) -> tuple[int, int, int]:
        group = name.partition("/")[0]
        return (
            GROUPS.index(group)
            if group in GROUPS
            else len(GROUPS) + is_seconds(name) + 2 * is_bytes(name),
            name.count("/"),
            (not name.endswith("/accuracy")) + (not is_share(name)),
        )

    return [(name, *rows[name]) for name in sorted(rows, key=rank)]  # type: ignore[misc]


def headline(final: Mapping[str, float], most: int = 5) -> list[Tile]:
    """The tiles at the head of the page: test metrics, validation metrics where there is no
    test."""
    rows = paired(final)
    group = next(
        (
            group
            for group in ("test", "val")
            if any(name.startswith(f"{group}/") for name, *_ in rows)
        ),
        None,
    )
    tiles = []
    for name, value, raw in rows:
        if group is None or not name.startswith(f"{group}/"):
            continue
        shown = value if value is not None else raw
        beside = f"raw: {value_text(name, raw)}" if raw is not None and value is not None else ""
        tiles.append(
            Tile(name.replace("_", " ").replace("/", " · "), value_text(name, shown), beside)
        )
    return tiles[:most]
