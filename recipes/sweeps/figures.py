"""The figures of a sweep: the judged metric against each swept value, and against the trials of a
search."""

from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.report.numbers import is_share
from recipes.report.style import (
    BAD,
    INK,
    MUTED,
    SERIES,
    log_axis,
    new_figure,
    percent_axis,
    short,
    styled,
)
from recipes.sweeps.record import Job
from recipes.sweeps.table import Table, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = 8  # more combinations of the other values cannot be told apart
CHOICES = 14  # names on one axis


def number(text: str) -> float | None:
    """The value of an override as a number, None where it is a word. A seed or a width is a number,
    `true` is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def numeric(table: Table, key: str) -> bool:
    return all(number(row.setting[key]) is not None for row in table.rows)


def drawable(table: Table) -> list[str]:
    """Swept keys that make a figure: all numbers, and choices of few names."""
    return [
        key
        for key in table.swept
        if numeric(table, key) or len({r.setting[key] for r in table.rows}) <= CHOICES
    ]


@styled
def against(table: Table, key: str) -> "Figure":
    """Every finished run as a dot, the means over seeds joined for each combination of the other
    values, runs that gave nothing as crosses at the foot."""
    figure = new_figure(height=3.1)
    axes = figure.subplots()
    names = list(dict.fromkeys(row.setting[key] for row in table.rows))
    place: dict[str, float] = {text: float(i) for i, text in enumerate(names)}
    if numeric(table, key):
        place = {text: float(number(text) or 0.0) for text in names}
    series = grouped(table, key)
    # between names lies nothing: there a line only tells one combination from another
    lines_help = numeric(table, key) or len(series) > 1
    joined = (
        lines_help and len(series) <= LINES and any(len(points) > 1 for points in series.values())
    )
    lines = [
        draw(axes, points, place, SERIES[i % len(SERIES)] if joined else SERIES[0], joined)
        for i, points in enumerate(series.values())
    ]
    lost = [
        place[row.setting[key]]
        for row in table.rows
        for job in row.jobs.values()
        if job.value is None
    ]
    if lost:
        axes.plot(
            lost,
            [0.03] * len(lost),
            "x",
            color=BAD,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    scale(axes, table, key, place)
    if joined and len(series) > 1:
        legend(axes, lines, list(series))
    return figure


Points = list[tuple[str, list[float]]]  # value as written, the judged metric of its runs


def grouped(table: Table, key: str) -> dict[str, Points]:
    """For each combination of the other swept values, in words, its points along this one."""
    found: dict[str, Points] = {}
    for row in table.rows:
        values = [job.value for job in row.jobs.values() if job.value is not None]
        others = ", ".join(
            f"{k.rpartition('.')[2]} {v}" for k, v in row.setting.items() if k != key
        )
        if values:
            found.setdefault(others, []).append((row.setting[key], values))
    return dict(sorted(found.items()))


def draw(axes: "Axes", points: Points, place: dict[str, float], colour: str, joined: bool) -> Any:
    points = sorted(points, key=lambda point: place[point[0]])
    for text, values in points:
        axes.plot(
            [place[text]] * len(values),
            values,
            "o",
            markersize=3.4,
            color=colour,
            alpha=0.45,
            linewidth=0,
        )
    at = [place[text] for text, _ in points]
    spreads = [spread(values) for _, values in points]
    style: dict[str, Any] = {"linewidth": 1.7} if joined else {"linestyle": "none"}
    return axes.errorbar(
        at,
        [s.mean for s in spreads],
        yerr=[s.std or 0.0 for s in spreads],
        color=colour,
        marker="o",
        markersize=5,
        elinewidth=1.1,
        capsize=2.5,
        **style,
    )


def scale(axes: "Axes", table: Table, key: str, place: dict[str, float]) -> None:
    at = list(place.values())
    axes.margins(y=0.12)  # room for crosses below the lowest run
    axes.set_xlabel(key)
    axes.set_ylabel(table.monitor)
    if is_share(table.monitor):
        percent_axis(axes.yaxis)
    if not numeric(table, key):
        axes.set_xticks(at, [short(text, 14) for text in place])
        axes.set_xlim(-0.5, len(at) - 0.5)
        return
    axes.margins(x=0.06)
    if min(at) > 0 and max(at) / min(at) >= 20:
        axes.set_xscale("log")
        log_axis(axes.xaxis)
    if len(at) <= 6:
        axes.set_xticks(at, [f"{value:g}" for value in at])
        axes.minorticks_off()


def legend(axes: "Axes", lines: list[Any], labels: list[str]) -> None:
    axes.legend(
        lines,
        [short(label, 34).lstrip("_") for label in labels],
        loc="lower left",
        bbox_to_anchor=(-0.015, 0.985),
        ncols=2,
        handlelength=1.1,
        columnspacing=1.2,
        handletextpad=0.5,
        borderpad=0.1,
        labelcolor=MUTED,
    )


@styled
def history(table: Table) -> "Figure | None":
    """Of a search: the metric of every run in the order of asking, and the best until then; None
    without a search."""
    runs = [(n, job, shown(table, job)) for n, job in table.jobs.items() if job.metric]
    points = [(n, job, value) for n, job, value in runs if value is not None]
    done = [(n, value) for n, job, value in points if job.state == "done"]
    if len(done) < 2:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(height=3.1)
    axes = figure.subplots()
    best = np.minimum.accumulate if table.direction == "minimize" else np.maximum.accumulate
    numbers = np.array([n for n, _ in done])
    values = np.array([v for _, v in done])
    lines = axes.step(numbers, best(values), where="post", color=INK, linewidth=1.3)
    lines += axes.plot(numbers, values, "o", color=SERIES[0], markersize=5)
    labels = ["best so far", "run"]
    pruned = [(n, value) for n, job, value in points if job.state == "pruned"]
    if pruned:
        lines += axes.plot(*zip(*pruned, strict=True), "x", color=BAD, markersize=6)
        labels.append("pruned")
    axes.set_xlabel("job")
    axes.set_ylabel(table.monitor)
    axes.margins(x=0.04)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if is_share(table.monitor):
        percent_axis(axes.yaxis)
    legend(axes, lines, labels)
    return figure


def shown(table: Table, job: Job) -> float | None:
    return job.metrics.get(table.monitor)
