"""Figures over time: loss terms, accuracies, pseudo-labels, and every other number that was
logged."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.report.numbers import raw_twin
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
POINTS = 300  # of a curve; more cannot be told apart on a screen
PANELS = 12  # of other numbers


def thin(
    steps: np.ndarray, values: np.ndarray, points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` points of a curve: means over windows of equal numbers of points, the last
    window whole."""
    if len(steps) <= points:
        return steps, values
    edges = np.linspace(0, len(steps), points + 1).astype(int)
    width = np.diff(edges)
    means = np.add.reduceat(values, edges[:-1]) / width
    return steps[edges[1:] - 1], means


def smooth(values: np.ndarray, window: float = 0.04) -> np.ndarray:
    """Exponential average over `window` of the curve's length, without a start-up bias: Σ a^(t-i)
    v_i / Σ a^(t-i)."""
    decay = 1 - 1 / max(window * len(values), 1)
    out = np.empty_like(values)
    top = 0.0
    bottom = 0.0
    for i, value in enumerate(values):
        top, bottom = decay * top + value, decay * bottom + 1
        out[i] = top / bottom
    return out


def loss_names(record: RunRecord) -> list[str]:
    """Logged loss terms, the total first."""
    names = [name for name in record.names() if name.startswith("train/") and name.count("/") == 1]
    if record.terms:
        terms = [
            name
            for name in names
            if name in record.terms or name.removeprefix("train/") in record.terms
        ]
    else:
        terms = [name for name in names if name.removeprefix("train/") not in DIAGNOSTICS]
    total = [name for name in names if name == "train/loss"]
    terms = [name for name in terms if name != "train/loss"]
    # with a single term the total would lie on it
    return (total + terms)[:6] if len(terms) != 1 or not total else total


def accuracy_names(record: RunRecord) -> list[tuple[str, str]]:
    """(name, label) of logged validation accuracies."""
    raw = "val/raw/accuracy" in record.names()
    wanted = [
        ("val/accuracy", record.reported if raw else "accuracy"),
        ("val/raw/accuracy", "raw"),
        ("val/balanced_accuracy", "balanced"),
    ]
    found = [(name, label) for name, label in wanted if name in record.names()]
    if len(found) == 3 and _equal(record, "val/accuracy", "val/balanced_accuracy"):
        found.pop()
    return found


def _equal(record: RunRecord, one: str, other: str) -> bool:
    a, b = record.series(one)[1], record.series(other)[1]
    return len(a) == len(b) and bool(np.allclose(a, b, atol=2e-3))


@styled
def learning_curves(record: RunRecord) -> "Figure | None":
    """Loss terms above, validation accuracy below, on one axis of optimizer steps; None without
    either."""
    losses = [name for name in loss_names(record) if len(record.series(name)[0]) > 1]
    accuracies = [pair for pair in accuracy_names(record) if len(record.series(pair[0])[0]) > 0]
    rows = bool(losses) + bool(accuracies)
    if rows == 0:
        return None
    figure = new_figure(height=0.4 + 2.4 * rows)
    axes = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    if losses:
        _losses(axes[0], record, losses)
    if accuracies:
        _shares(axes[-1], record, accuracies, "Validation accuracy", marks=True)
    step_axis(axes[-1])
    return figure


@styled
def pseudo_labels(record: RunRecord) -> "Figure | None":
    """Mask rate above, accuracy and confidence of the pseudo-labels below; None where no method
    made any."""
    masks = [("train/mask_rate", "kept share of the batch")]
    quality = [
        ("train/pseudo_accuracy", "pseudo-label accuracy"),
        ("train/confidence", "mean confidence"),
    ]
    panels = [
        (title, found)
        for title, names in (("Mask rate", masks), ("Pseudo-labels", quality))
        if (found := [pair for pair in names if len(record.series(pair[0])[0]) > 1])
    ]
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
def diagnostics(record: RunRecord) -> "Figure | None":
    """Every other logged number in a small panel of its own; None where there is none."""
    shown = {*loss_names(record), *(name for name, _ in accuracy_names(record))}
    shown |= {"train/loss", "train/mask_rate", "train/pseudo_accuracy", "train/confidence"}
    names = [
        name for name in record.names() if name not in shown and len(record.series(name)[0]) > 1
    ]
    # the raw network's value goes into the panel of the reported one's
    names = [
        name for name in names if name.replace("/raw/", "/", 1) not in names or "/raw/" not in name
    ][:PANELS]
    if not names:
        return None
    rows = math.ceil(len(names) / 2)
    figure = new_figure(height=0.35 + 1.35 * rows)
    grid = figure.subplots(rows, 2, squeeze=False).ravel()
    for number, panel in enumerate(grid):
        if number >= len(names):
            panel.set_axis_off()
            continue
        twin = raw_twin(names[number])
        for colour, name in ((SERIES[1], twin), (SERIES[0], names[number])):
            panel.plot(*thin(*record.series(name)), color=colour, linewidth=1.4)
        title = short(names[number], 30) + (
            " (orange: raw)" if len(record.series(twin)[0]) > 0 else ""
        )
        panel.set_title(title, fontsize=9, color=MUTED, fontweight="normal", pad=5)
        panel.tick_params(labelsize=8)
        panel.locator_params(nbins=3)
    return figure


def _losses(axes: "Axes", record: RunRecord, names: list[str]) -> None:
    axes.set_title("Training loss", pad=34 if len(names) > 4 else 22)
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
        lowest, highest = min(lowest, float(shown.min())), max(highest, float(shown.max()))
    if lowest > 0 and highest / lowest > 100:
        axes.set_yscale("log")
        log_axis(axes.yaxis)
    elif lowest >= 0:
        axes.set_ylim(bottom=0)
    _legend(
        axes,
        lines,
        ["total" if name == "train/loss" else name.removeprefix("train/") for name in names],
    )


def _loss_colours(names: list[str]) -> list[str]:
    colours = [INK] if names[0] == "train/loss" else []
    return (colours + list(SERIES))[: len(names)]


def _shares(
    axes: "Axes",
    record: RunRecord,
    names: list[tuple[str, str]],
    title: str,
    first: int = 0,
    marks: bool = False,
) -> None:
    axes.set_title(title, pad=22)
    lines = []
    for number, (name, _) in enumerate(names):
        steps, values = thin(*record.series(name))
        style: dict[str, Any] = {
            "color": SERIES[(first + number) % len(SERIES)],
            "zorder": 3 - number,
        }
        if marks and len(steps) <= 40:
            style |= {"marker": "o", "markersize": 3.2}
        elif len(steps) > 30:
            axes.plot(steps, values, alpha=0.25, linewidth=0.9, color=style["color"])
            values = smooth(values)
        lines += axes.plot(steps, values, **style)
    percent_axis(axes.yaxis)
    labels = [f"{label}  {percent(record.series(name)[1][-1])}" for name, label in names]
    _legend(axes, lines, labels)


def _legend(axes: "Axes", lines: list[Any], labels: list[str]) -> None:
    """A legend between title and curves, where no curve can run through it."""
    # matplotlib drops labels that begin with an underscore
    axes.legend(
        lines,
        [short(label, 40).lstrip("_") or "?" for label in labels],
        loc="lower left",
        bbox_to_anchor=(-0.015, 0.985),
        ncols=3 if len(labels) > 4 else len(labels),
        handlelength=1.1,
        columnspacing=1.2,
        handletextpad=0.5,
        borderpad=0.1,
        labelcolor=MUTED,
    )
