"""The figures of a sweep: the monitored metric over each swept value, and over the jobs of a
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
from recipes.sweeps.table import SweepTable, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = 8  # at most; there are eight colours
CHOICES = 14  # labels on one axis, at most

Points = list[tuple[str, list[float]]]  # swept value, and the monitored metric of its runs


def number(text: str) -> float | None:
    """The value of an override as a number; None for other text, `true` included."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def numeric(table: SweepTable, key: str) -> bool:
    """Whether all swept values of a key are numbers."""
    return all(number(row.setting[key]) is not None for row in table.rows)


def drawable(table: SweepTable) -> list[str]:
    """Swept keys that get a figure: numbers, and up to `CHOICES` choices."""
    return [
        key for key in table.swept if numeric(table, key) or len(choices(table, key)) <= CHOICES
    ]


def choices(table: SweepTable, key: str) -> list[str]:
    return list(dict.fromkeys(row.setting[key] for row in table.rows))


@styled
def metric_over(table: SweepTable, key: str) -> "Figure":
    """The monitored metric over a swept key.

    Dots are finished runs. For each combination of the other swept values a line connects the means
    over seeds. Crosses at the bottom are runs without a result.
    """
    figure = new_figure(height=3.1)
    axes = figure.subplots()
    position = positions(table, key)
    series = grouped(table, key)
    several_points = any(len(points) > 1 for points in series.values())
    # a line between choices has no meaning of its own: it only shows which points belong together
    line_has_meaning = numeric(table, key) or len(series) > 1
    connected = line_has_meaning and several_points and len(series) <= LINES
    lines = []
    for i, points in enumerate(series.values()):
        colour = SERIES[i % len(SERIES)] if connected else SERIES[0]
        lines.append(draw(axes, points, position, colour, connected))
    draw_crosses(axes, table, key, position)
    set_axes(axes, table, key, position)
    if connected and len(series) > 1:
        legend(axes, lines, list(series))
    return figure


def positions(table: SweepTable, key: str) -> dict[str, float]:
    """Position on the axis of each swept value: the number itself, or the index of a choice."""
    if numeric(table, key):
        return {text: float(number(text) or 0.0) for text in choices(table, key)}
    return {text: float(i) for i, text in enumerate(choices(table, key))}


def grouped(table: SweepTable, key: str) -> dict[str, Points]:
    """The points along a key, by the combination of the other swept values as text."""
    series: dict[str, Points] = {}
    for row in table.rows:
        values = [job.value for job in row.jobs.values() if job.value is not None]
        others = {k.rpartition(".")[2]: value for k, value in row.setting.items() if k != key}
        label = ", ".join(f"{name} {value}" for name, value in others.items())
        if values:
            series.setdefault(label, []).append((row.setting[key], values))
    return dict(sorted(series.items()))


def draw(
    axes: "Axes", points: Points, position: dict[str, float], colour: str, connected: bool
) -> Any:
    """Draw dots, means and deviations; returns the line for the legend."""
    points = sorted(points, key=lambda point: position[point[0]])
    dots: dict[str, Any] = {"markersize": 3.4, "color": colour, "alpha": 0.45, "linewidth": 0}
    for text, values in points:
        axes.plot([position[text]] * len(values), values, "o", **dots)
    at = [position[text] for text, _ in points]
    spreads = [spread(values) for _, values in points]
    means = [entry.mean for entry in spreads]
    deviations = [entry.std or 0.0 for entry in spreads]
    style: dict[str, Any] = {"linewidth": 1.7} if connected else {"linestyle": "none"}
    return axes.errorbar(
        at,
        means,
        yerr=deviations,
        color=colour,
        marker="o",
        markersize=5,
        elinewidth=1.1,
        capsize=2.5,
        **style,
    )


def draw_crosses(axes: "Axes", table: SweepTable, key: str, position: dict[str, float]) -> None:
    """A cross at the bottom for each run without a result."""
    at = []
    for row in table.rows:
        without_result = sum(job.value is None for job in row.jobs.values())
        at += [position[row.setting[key]]] * without_result
    if at:
        bottom = [0.03] * len(at)
        transform = axes.get_xaxis_transform()
        axes.plot(at, bottom, "x", color=BAD, transform=transform, clip_on=False)


def set_axes(axes: "Axes", table: SweepTable, key: str, position: dict[str, float]) -> None:
    at = list(position.values())
    axes.margins(y=0.12)  # space for the crosses below the lowest run
    axes.set_xlabel(key)
    axes.set_ylabel(table.monitor)
    if is_share(table.monitor):
        percent_axis(axes.yaxis)
    if not numeric(table, key):
        axes.set_xticks(at, [short(text, 14) for text in position])
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
    # matplotlib drops labels that begin with an underscore
    texts = [short(label, 34).lstrip("_") for label in labels]
    axes.legend(
        lines,
        texts,
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
def search_history(table: SweepTable) -> "Figure | None":
    """The metric over the jobs of a search, and the best value so far; None for a grid and below
    two finished runs."""
    done = results(table, "done")
    pruned = results(table, "pruned")
    if len(done) < 2:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(height=3.1)
    axes = figure.subplots()
    numbers = np.array(list(done))
    values = np.array(list(done.values()))
    if table.direction == "minimize":
        best_so_far = np.minimum.accumulate(values)
    else:
        best_so_far = np.maximum.accumulate(values)
    lines = axes.step(numbers, best_so_far, where="post", color=INK, linewidth=1.3)
    lines += axes.plot(numbers, values, "o", color=SERIES[0], markersize=5)
    labels = ["best so far", "run"]
    if pruned:
        lines += axes.plot(list(pruned), list(pruned.values()), "x", color=BAD, markersize=6)
        labels.append("pruned")
    axes.set_xlabel("job")
    axes.set_ylabel(table.monitor)
    axes.margins(x=0.04)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if is_share(table.monitor):
        percent_axis(axes.yaxis)
    legend(axes, lines, labels)
    return figure


def results(table: SweepTable, state: str) -> dict[int, float]:
    """The monitored metric of a search's jobs in `state`, by number."""
    values = {}
    for number, job in table.jobs.items():
        value = job.metrics.get(table.monitor)
        if job.metric and job.state == state and value is not None:
            values[number] = value
    return values
