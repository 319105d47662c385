"""Figures over classes: confusion matrix, and accuracy and number of training labels by class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.report.record import matrix, recalls
from recipes.report.style import (
    BAD,
    CARD,
    INK,
    MUTED,
    SERIES,
    WIDTH,
    log_axis,
    new_figure,
    percent,
    percent_axis,
    short,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 14  # up to this many classes, cells show their counts
NAMED = 40  # up to this many classes, rows show their names


def confusion_shares(confusion: Any) -> np.ndarray:
    """A confusion matrix [C, C] with each row divided by its sum; zeros for a class without
    samples."""
    counts = matrix(confusion)
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)


def confused_pairs(confusion: Any, number: int = 8) -> list[tuple[int, int, int, float]]:
    """The most frequent mistakes, (true, predicted, count, share of the true class), sorted by
    count, then by share."""
    counts = matrix(confusion).copy()
    shares = confusion_shares(confusion)
    np.fill_diagonal(counts, 0)
    true, predicted = np.nonzero(counts)
    # the sort is stable: equal mistakes stay in the order of their classes
    order = np.lexsort((-shares[true, predicted], -counts[true, predicted]))[:number]
    return [
        (int(i), int(j), int(counts[i, j]), float(shares[i, j]))
        for i, j in zip(true[order], predicted[order], strict=True)
    ]


@styled
def confusion_figure(confusion: Any, classes: Sequence[str]) -> "Figure":
    """The confusion matrix; rows are true classes, opacity is the share of the row, correct
    predictions are blue and mistakes orange.

    Opacity over the background is readable in the light and in the dark theme. A mistake's opacity
    is the square root of its share: a share of 1 % would be invisible otherwise.
    """
    shares = confusion_shares(confusion)
    counts = matrix(confusion)
    size = len(shares)
    height = _by_size(size, (4, 0.62), (NAMED, 0.93), otherwise=0.97)
    figure = new_figure(height=WIDTH * height)
    axes = figure.subplots()
    axes.imshow(_rgba(shares), interpolation="nearest", aspect="equal")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(size > NUMBERED)
    if size <= NAMED:
        _named_ticks(axes, classes, size)
    else:
        axes.locator_params(nbins=9, integer=True)
    if size <= NUMBERED:
        _numbers(axes, counts, shares)
    return figure


def _by_size(size: int, *steps: tuple[int, float], otherwise: float) -> float:
    """The value of the first step (limit, value) with size <= limit."""
    for limit, value in steps:
        if size <= limit:
            return value
    return otherwise


def _rgba(shares: np.ndarray) -> np.ndarray:
    from matplotlib.colors import to_rgb

    correct = np.eye(len(shares), dtype=bool)
    image = np.empty((*shares.shape, 4))
    # a cell of a large matrix covers a pixel or two: a faint one would be invisible
    floor = 0.0 if len(shares) <= NAMED else 0.3
    mistake_opacity = floor + (0.92 - floor) * np.sqrt(shares)
    image[..., :3] = np.where(correct[..., None], to_rgb(SERIES[0]), to_rgb(BAD))
    image[..., 3] = np.where(correct, 0.06 + 0.86 * shares, mistake_opacity)
    # empty cells form a faint grid
    image[..., :3][shares == 0] = to_rgb(MUTED)
    image[..., 3][shares == 0] = 0.05 if len(shares) <= NAMED else 0.0
    return image


def _named_ticks(axes: "Axes", classes: Sequence[str], size: int) -> None:
    names = [short(name, 14) for name in classes]
    slanted = size > 14 or size * max(map(len, names)) > 40
    font = _by_size(size, (12, 9.5), (20, 8), otherwise=5.5)
    axes.set_xticks(range(size), names, fontsize=font, rotation=60 if slanted else 0)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right" if slanted else "center")
        label.set_rotation_mode("anchor" if slanted else "default")
    axes.set_yticks(range(size), names, fontsize=font)


def _numbers(axes: "Axes", counts: np.ndarray, shares: np.ndarray) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        opacity = shares[row, column] if row == column else np.sqrt(shares[row, column])
        axes.text(
            column,
            row,
            f"{counts[row, column]:.0f}",
            ha="center",
            va="center",
            color="#fefefe" if opacity > 0.55 else INK,
            fontsize=9 if len(counts) <= 10 else 8,
        )


@styled
def class_accuracy(
    confusion: Any, classes: Sequence[str], train_counts: Sequence[int] | None = None
) -> "Figure":
    """Accuracy and number of training labels of each class, the most frequent class first.

    Bars are horizontal with class names; above `NAMED` classes they are vertical without names.
    """
    accuracy = recalls(confusion)
    names = list(classes)
    counts = None
    if train_counts is not None and len(train_counts) == len(accuracy):
        counts = np.asarray(train_counts, dtype=float)
        order = np.argsort(-counts, kind="stable")
        counts = counts[order]
        accuracy = accuracy[order]
        names = [names[i] for i in order]
    mean = float("nan")
    if np.isfinite(accuracy).any():
        mean = float(np.nanmean(accuracy))
    if len(accuracy) <= NAMED:
        return _horizontal(accuracy, names, counts, mean)
    return vertical_bars(accuracy, counts, mean)


def _horizontal(
    accuracy: np.ndarray, names: Sequence[str], counts: np.ndarray | None, mean: float
) -> "Figure":
    size = len(names)
    rows = np.arange(len(names))
    row_height = _by_size(size, (12, 0.33), (24, 0.25), otherwise=0.19)
    figure = new_figure(height=1.15 + row_height * size)
    ratios = [3] if counts is None else [3, 2]
    grid = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)
    panels = grid[0]
    left = panels[0]
    left.barh(rows, np.nan_to_num(accuracy), height=0.66, color=SERIES[0])
    for row, value in zip(rows, accuracy, strict=True):
        _bar_text(left, int(row), value, size)
    _mean_line(left.axvline, mean)
    left.set(xlim=(0, 1.0), ylim=(size - 0.4, -0.6))
    font = 9.5 if size <= 24 else 7
    left.set_yticks(rows, [short(name) for name in names], fontsize=font, color=INK)
    left.set_title(f"Accuracy  (mean {percent(mean)})", fontsize=9.5)
    left.grid(False, axis="y")
    percent_axis(left.xaxis)
    if counts is not None:
        right = panels[1]
        skewed = _horizontal_counts(right, rows, counts)
        _count_title(right, skewed, counts)
        right.grid(False, axis="y")
    return figure


def _bar_text(axes: "Axes", row: int, value: float, size: int) -> None:
    """Write a class's accuracy into its bar, beside a short bar."""
    inside = np.isfinite(value) and value > 0.3
    axes.text(
        value - 0.02 if inside else np.nan_to_num(value) + 0.02,
        row,
        percent(value),
        ha="right" if inside else "left",
        va="center",
        fontsize=8.5 if size <= 24 else 6.5,
        color=CARD if inside else INK,
    )


def vertical_bars(accuracy: np.ndarray, counts: np.ndarray | None, mean: float) -> "Figure":
    """Accuracy, and below it the number of training labels, as bars without names."""
    columns = np.arange(len(accuracy))
    rows = 1 if counts is None else 2
    figure = new_figure(height=1.1 + 1.75 * rows)
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    panels[0].bar(columns, np.nan_to_num(accuracy), width=0.85, color=SERIES[0])
    _mean_line(panels[0].axhline, mean)
    panels[0].set_title(f"Accuracy  (mean {percent(mean)})", fontsize=9.5)
    panels[0].set_ylim(0, 1.0)
    percent_axis(panels[0].yaxis)
    if counts is not None:
        skewed = _vertical_counts(panels[1], columns, counts)
        _count_title(panels[1], skewed, counts)
    panels[-1].set_xlabel("classes" if counts is None else "classes, the most frequent first")
    for panel in panels:
        panel.grid(False, axis="x")
        panel.set_xticks([])
    return figure


def _mean_line(draw: Any, mean: float) -> None:
    if np.isfinite(mean):
        draw(mean, color=INK, linewidth=1, linestyle=(0, (3, 3)), alpha=0.6)


# -- training labels -------------------------------------------------------------------------------
def _horizontal_counts(axes: "Axes", rows: np.ndarray, counts: np.ndarray) -> bool:
    """Bars and counts; returns whether the axis is logarithmic."""
    axes.barh(rows, counts, 0.66, color=SERIES[7], alpha=0.55)
    limits = _log_limits(counts, headroom=3)
    if limits is not None:
        axes.set_xscale("log")
        log_axis(axes.xaxis)
        axes.set_xlim(*limits)
    else:
        axes.set_xlim(0, max(counts.max(), 1) * 1.3)
    # a count of 0 has no place on a logarithmic axis: its text is at the left edge
    left_edge = axes.get_xlim()[0]
    for row, count in zip(rows, counts, strict=True):
        axes.annotate(
            f"{count:.0f}",
            (max(count, left_edge), row),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5 if len(counts) <= 24 else 6.5,
            color=MUTED,
        )
    axes.set_xticks([])
    axes.tick_params(which="minor", labelbottom=False)
    return limits is not None


def _vertical_counts(axes: "Axes", columns: np.ndarray, counts: np.ndarray) -> bool:
    """Bars alone; returns whether the axis is logarithmic."""
    axes.bar(columns, counts, 0.85, color=SERIES[7], alpha=0.55)
    limits = _log_limits(counts, headroom=1.5)
    if limits is not None:
        axes.set_yscale("log")
        log_axis(axes.yaxis)
        axes.set_ylim(*limits)
    return limits is not None


def _log_limits(counts: np.ndarray, headroom: float) -> tuple[float, float] | None:
    """Limits of a logarithmic axis where the counts differ by a factor of 20 or more, else None."""
    present = counts[counts > 0]
    if len(present) == 0 or present.max() / present.min() < 20:
        return None
    return present.min() * 0.6, present.max() * headroom


def _count_title(axes: "Axes", logarithmic: bool, counts: np.ndarray) -> None:
    words = ["sorted"] if counts.min() < counts.max() else []
    words += ["log"] if logarithmic else []
    title = f"Training labels ({', '.join(words)})" if words else "Training labels"
    axes.set_title(title, fontsize=9.5)
