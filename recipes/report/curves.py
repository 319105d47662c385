"""Figures over optimizer steps: loss terms, accuracies, pseudo-labels, all other metrics."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.report.numbers import is_share, raw_twin
from recipes.report.record import RunRecord
from recipes.report.style import (
    INK,
    MUTED,
    SERIES,
    log_axis,
    new_figure,
    percent,
    percent_axis,
    short,
    step_axis,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIAGNOSTICS = ("mask_rate", "pseudo_accuracy", "confidence", "lr")
POINTS = 300  # of a curve; a screen does not resolve more
LEGEND = 66  # characters of a row of the legend
HANDLE = 4  # those that the line before a label takes
PANELS = 12  # of the figure of other metrics
PSEUDO_LABELS = {
    "Mask rate": [("train/mask_rate", "share above the threshold")],
    "Pseudo-labels": [
        ("train/pseudo_accuracy", "pseudo-label accuracy"),
        ("train/confidence", "mean confidence"),
    ],
}
OTHER_FIGURES = {"train/loss", "train/mask_rate", "train/pseudo_accuracy", "train/confidence"}

Named = tuple[str, str]  # a logged name and its label in the legend


def thin(
    steps: np.ndarray, values: np.ndarray, points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """A curve reduced to `points` points: means over windows of about equal size, each at the last
    step of its window. Shorter curves are returned unchanged."""
    if len(steps) <= points:
        return steps, values
    edges = np.linspace(0, len(steps), points + 1).astype(int)
    width = np.diff(edges)
    means = np.add.reduceat(values, edges[:-1]) / width
    return steps[edges[1:] - 1], means


def smooth(values: np.ndarray, window: float = 0.04) -> np.ndarray:
    """Exponential mean over both sides, Σ_i a^|t-i| v_i / Σ_i a^|t-i|: it neither lags behind the
    values nor begins with a bias.

    window: 1 / (1 - a) as a fraction of the curve's length.
    """
    decay = 1 - 1 / max(window * len(values), 1)
    sums, weights = _past(values, decay)
    later_sums, later_weights = _past(values[::-1], decay)
    # a point is in both directions: it is counted once
    both = sums + later_sums[::-1] - values
    return both / (weights + later_weights[::-1] - 1)


def _past(values: np.ndarray, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Σ_{i≤t} a^(t-i) v_i and Σ_{i≤t} a^(t-i), for each t."""
    sums = np.empty_like(values)
    weights = np.empty_like(values)
    weighted_sum = 0.0
    weight = 0.0
    for i, value in enumerate(values):
        weighted_sum = decay * weighted_sum + value
        weight = decay * weight + 1
        sums[i] = weighted_sum
        weights[i] = weight
    return sums, weights


def loss_names(record: RunRecord) -> list[str]:
    """Names of the logged loss terms, the total first; at most six."""
    names = [name for name in record.names() if name.startswith("train/")]
    if not record.terms:
        names = [name for name in names if name.count("/") == 1]
    total = [name for name in names if name == "train/loss"]
    terms = [name for name in names if name not in total and _is_term(record, name)]
    # the curves of the total and of a single term are the same
    if total and len(terms) == 1:
        return total
    return (total + terms)[:6]


def monitored(record: RunRecord) -> list[Named]:
    """(name, label) of the monitored metric, where it is none of the accuracies: a recall."""
    name = record.monitor
    if name not in record.names() or name in dict(accuracy_names(record)):
        return []
    return [(name, name.partition("/")[2])]


def _is_term(record: RunRecord, name: str) -> bool:
    term = name.removeprefix("train/")
    if record.terms:
        return name in record.terms or term in record.terms
    return term not in DIAGNOSTICS


def accuracy_names(record: RunRecord) -> list[Named]:
    """(name, label) of the logged validation accuracies."""
    raw = "val/raw/accuracy" in record.names()
    candidates = [
        ("val/accuracy", record.reported if raw else "accuracy"),
        ("val/raw/accuracy", "raw"),
        ("val/balanced_accuracy", "balanced"),
    ]
    accuracies = [(name, label) for name, label in candidates if name in record.names()]
    # on balanced classes the third curve would hide the first
    if len(accuracies) == 3 and _equal(record, "val/accuracy", "val/balanced_accuracy"):
        accuracies.pop()
    return accuracies


def _equal(record: RunRecord, one: str, other: str) -> bool:
    a = record.series(one)[1]
    b = record.series(other)[1]
    return len(a) == len(b) and bool(np.allclose(a, b, atol=2e-3))


@styled
def learning_curves(record: RunRecord) -> "Figure | None":
    """Loss terms above validation accuracy, over optimizer steps; None where neither was logged."""
    losses = [name for name in loss_names(record) if _points(record, name) > 1]
    accuracies = [pair for pair in accuracy_names(record) if _points(record, pair[0]) > 0]
    judged = [pair for pair in monitored(record) if _points(record, pair[0]) > 0]
    if judged and not is_share(judged[0][0]):
        judged = []  # a loss: among the other metrics
    rows = bool(losses) + bool(accuracies) + bool(judged)
    if rows == 0:
        return None
    figure = new_figure(height=0.4 + 2.4 * rows)
    axes = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    if losses:
        _losses(axes[0], record, losses)
    if accuracies:
        _shares(axes[-1], record, accuracies, "Validation accuracy", marks=True)
    if judged:
        _shares(axes[bool(losses)], record, judged, f"Validation {judged[0][1]}", marks=True)
    step_axis(axes[-1])
    return figure


@styled
def pseudo_labels(record: RunRecord) -> "Figure | None":
    """Mask rate above accuracy and confidence of the pseudo-labels; None where no method made
    pseudo-labels."""
    panels: list[tuple[str, list[Named]]] = []
    for title, candidates in PSEUDO_LABELS.items():
        logged = [pair for pair in candidates if _points(record, pair[0]) > 1]
        if logged:
            panels.append((title, logged))
    if not panels:
        return None
    figure = new_figure(height=0.4 + 2.4 * len(panels))
    axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    for number, (panel, (title, names)) in enumerate(zip(axes, panels, strict=True)):
        _shares(panel, record, names, title, first=2 + number)
        panel.set_ylim(-0.02, 1.04)
    step_axis(axes[-1])
    return figure


@styled
def diagnostics(record: RunRecord, names: "list[str] | None" = None) -> "Figure | None":
    """A small panel for each of these metrics, by default for those that no other figure shows;
    None where there is none."""
    names = other_names(record) if names is None else names
    if not names:
        return None
    rows = math.ceil(len(names) / 2)
    figure = new_figure(height=0.35 + 1.35 * rows)
    grid = figure.add_gridspec(rows, 2)
    for number in range(len(names)):
        row, column = divmod(number, 2)
        alone = number == len(names) - 1 and column == 0
        panel = figure.add_subplot(grid[row, :] if alone else grid[row, column])
        raw_name = raw_twin(names[number])
        for colour, name in ((SERIES[1], raw_name), (SERIES[0], names[number])):
            panel.plot(*thin(*record.series(name)), color=colour, linewidth=1.4)
        title = short(names[number], 30)
        if _points(record, raw_name) > 0:
            title += " (orange: raw)"
        panel.set_title(title, fontsize=9, color=MUTED, fontweight="normal", pad=5)
        panel.tick_params(labelsize=8)
        panel.locator_params(nbins=3)
    return figure


def other_names(record: RunRecord) -> list[str]:
    """Logged metrics that no other figure shows, at most `PANELS`."""
    accuracies = {name for name, _ in accuracy_names(record)}
    judged = {name for name, _ in monitored(record) if is_share(name)}
    elsewhere = {*loss_names(record), *accuracies, *judged, *OTHER_FIGURES}
    names = [name for name in record.names() if name not in elsewhere and _points(record, name) > 1]
    # a raw metric is drawn in the panel of the reported one
    drawn_with_reported = {raw_twin(name) for name in names}
    return [name for name in names if name not in drawn_with_reported][:PANELS]


def _points(record: RunRecord, name: str) -> int:
    return len(record.series(name)[0])


def _losses(axes: "Axes", record: RunRecord, names: list[str]) -> None:
    axes.set_title("Training loss")
    lowest = np.inf
    highest = 0.0
    lines = []
    for colour, name in zip(_loss_colours(names), names, strict=True):
        steps, values = thin(*record.series(name))
        noisy = len(values) > 30
        if noisy:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.9)
        shown = smooth(values) if noisy else values
        lines += axes.plot(steps, shown, color=colour)
        lowest = min(lowest, float(shown.min()))
        highest = max(highest, float(shown.max()))
    if lowest > 0 and highest / lowest > 100:
        axes.set_yscale("log")
        log_axis(axes.yaxis)
    elif lowest >= 0:
        axes.set_ylim(bottom=0)
    labels = ["total" if name == "train/loss" else name.removeprefix("train/") for name in names]
    draw_legend(axes, lines, labels)


def _loss_colours(names: list[str]) -> list[str]:
    colours = [INK] if names[0] == "train/loss" else []
    return (colours + list(SERIES))[: len(names)]


def _shares(
    axes: "Axes",
    record: RunRecord,
    names: list[Named],
    title: str,
    first: int = 0,
    marks: bool = False,
) -> None:
    axes.set_title(title)
    lines = []
    for number, (name, _) in enumerate(names):
        steps, values = thin(*record.series(name))
        style: dict[str, Any] = {
            "color": SERIES[(first + number) % len(SERIES)],
            "zorder": 3 - number,
        }
        if marks:
            style |= {"marker": "o", "markersize": 3.2} if len(steps) <= 40 else {}
        elif len(steps) > 30:
            axes.plot(steps, values, alpha=0.25, linewidth=0.9, color=style["color"])
            values = smooth(values)
        lines += axes.plot(steps, values, **style)
    percent_axis(axes.yaxis)
    labels = [f"{label}  {percent(record.series(name)[1][-1])}" for name, label in names]
    draw_legend(axes, lines, labels)


def draw_legend(axes: "Axes", lines: list[Any], labels: list[str]) -> None:
    """Draw a legend between title and curves, where no curve can cross it."""
    # matplotlib drops labels that begin with an underscore
    texts = [short(label, 40).lstrip("_") or "?" for label in labels]
    columns = legend_columns(texts)
    rows = math.ceil(len(texts) / columns)
    axes.set_title(axes.get_title("left"), pad=10 + 12 * rows)
    axes.legend(
        lines,
        texts,
        loc="lower left",
        bbox_to_anchor=(-0.015, 0.985),
        ncols=columns,
        handlelength=1.1,
        columnspacing=1.2,
        handletextpad=0.5,
        borderpad=0.1,
        labelcolor=MUTED,
    )


def legend_columns(texts: list[str]) -> int:
    """The most columns, which are filled one after the other, that fit into the figure."""
    for columns in range(3 if len(texts) > 4 else len(texts), 1, -1):
        rows = math.ceil(len(texts) / columns)
        widths = [max(map(len, texts[i : i + rows])) for i in range(0, len(texts), rows)]
        if sum(widths) + HANDLE * columns <= LEGEND:
            return columns
    return 1
