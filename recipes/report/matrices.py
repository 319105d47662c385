"""Figures over classes: confusion matrix, and accuracy of each class against its number of training
labels."""

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

NUMBERED = 14  # up to so many classes each cell carries its count
NAMED = 40  # up to so many classes each row carries its name


def confusion_shares(confusion: Any) -> np.ndarray:
    """Rows of a confusion matrix as shares of the true class [C, C]; zeros for a class without
    samples."""
    counts = matrix(confusion)
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)


def confused_pairs(confusion: Any, number: int = 8) -> list[tuple[int, int, int, float]]:
    """The most frequent mistakes: (true, predicted, count, share of the true class), by count, then
    by share."""
    counts = matrix(confusion).copy()
    shares = confusion_shares(confusion)
    np.fill_diagonal(counts, 0)
    rows, columns = np.nonzero(counts)
    order = sorted(
        range(len(rows)),
        key=lambda i: (
            -counts[rows[i], columns[i]],
            -shares[rows[i], columns[i]],
            rows[i],
            columns[i],
        ),
    )
    return [
        (
            int(rows[i]),
            int(columns[i]),
            int(counts[rows[i], columns[i]]),
            float(shares[rows[i], columns[i]]),
        )
        for i in order[:number]
    ]


@styled
def confusion_figure(confusion: Any, classes: Sequence[str]) -> "Figure":
    """Rows are true classes, colour is the share of the row: right answers in blue, mistakes in
    orange.

    Colour is opacity over the background, so that it reads in light and dark; a mistake's opacity
    is the square root of its share, else one in a hundred could not be seen.
    """
    shares = confusion_shares(confusion)
    counts = matrix(confusion)
    size = len(shares)
    figure = new_figure(height=WIDTH * (0.62 if size < 5 else 0.93 if size <= NAMED else 0.97))
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


def _rgba(shares: np.ndarray) -> np.ndarray:
    from matplotlib.colors import to_rgb

    right = np.eye(len(shares), dtype=bool)
    image = np.empty((*shares.shape, 4))
    floor = 0.0 if len(shares) <= NAMED else 0.3  # a cell of a large matrix is a pixel or two
    image[..., :3] = np.where(right[..., None], to_rgb(SERIES[0]), to_rgb(BAD))
    image[..., 3] = np.where(right, 0.06 + 0.86 * shares, floor + (0.92 - floor) * np.sqrt(shares))
    # cells that nobody fell into stay faintly visible as a grid
    image[..., :3][shares == 0] = to_rgb(MUTED)
    image[..., 3][shares == 0] = 0.05 if len(shares) <= NAMED else 0.0
    return image


def _named_ticks(axes: "Axes", classes: Sequence[str], size: int) -> None:
    names = [short(name, 14) for name in classes]
    slanted = size > 14 or size * max(map(len, names)) > 40
    font = 9.5 if size <= 12 else 8 if size <= 20 else 5.5
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
    """Accuracy of each class beside its number of training labels, the most frequent class first.

    With many classes the bars stand upright without names; classes keep the order of their counts.
    """
    accuracy = recalls(confusion)
    counts = (
        None
        if train_counts is None or len(train_counts) != len(accuracy)
        else np.asarray(train_counts, dtype=float)
    )
    order = np.arange(len(accuracy)) if counts is None else np.argsort(-counts, kind="stable")
    draw = _lying if len(accuracy) <= NAMED else _standing
    mean = float(np.nanmean(accuracy)) if np.isfinite(accuracy).any() else float("nan")
    return draw(
        accuracy[order],
        [classes[i] for i in order],
        None if counts is None else counts[order],
        mean,
    )


def _lying(
    accuracy: np.ndarray, names: Sequence[str], counts: np.ndarray | None, mean: float
) -> "Figure":
    size = len(names)
    rows = np.arange(len(names))
    figure = new_figure(height=1.15 + (0.33 if size <= 12 else 0.25 if size <= 24 else 0.19) * size)
    columns = 1 if counts is None else 2
    panels = figure.subplots(1, columns, sharey=True, squeeze=False, width_ratios=[3, 2][:columns])[
        0
    ]
    left = panels[0]
    left.barh(rows, np.nan_to_num(accuracy), height=0.66, color=SERIES[0])
    for row, value in zip(rows, accuracy, strict=True):
        inside = np.isfinite(value) and value > 0.3
        left.text(
            value - 0.02 if inside else np.nan_to_num(value) + 0.02,
            row,
            percent(value),
            ha="right" if inside else "left",
            va="center",
            fontsize=8.5 if size <= 24 else 6.5,
            color=CARD if inside else INK,
        )
    _mean_line(left.axvline, mean)
    left.set(xlim=(0, 1.0), ylim=(size - 0.4, -0.6))
    left.set_yticks(
        rows, [short(name) for name in names], fontsize=9.5 if size <= 24 else 7, color=INK
    )
    left.set_title(f"Accuracy  (mean {percent(mean)})", fontsize=9.5)
    left.grid(False, axis="y")
    percent_axis(left.xaxis)
    if counts is not None:
        right = panels[1]
        _count_bars(right, rows, counts, lying=True, numbers=size <= NAMED)
        right.grid(False, axis="y")
    return figure


def _standing(
    accuracy: np.ndarray, names: Sequence[str], counts: np.ndarray | None, mean: float
) -> "Figure":
    columns = np.arange(len(names))
    rows = 1 if counts is None else 2
    figure = new_figure(height=1.1 + 1.75 * rows)
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    panels[0].bar(columns, np.nan_to_num(accuracy), width=0.85, color=SERIES[0])
    _mean_line(panels[0].axhline, mean)
    panels[0].set_title(f"Accuracy  (mean {percent(mean)})", fontsize=9.5)
    panels[0].set_ylim(0, 1.0)
    percent_axis(panels[0].yaxis)
    if counts is not None:
        _count_bars(panels[1], columns, counts, lying=False, numbers=False)
    panels[-1].set_xlabel("classes" if counts is None else "classes, the most frequent first")
    for panel in panels:
        panel.grid(False, axis="x")
        panel.set_xticks([])
    return figure


def _mean_line(draw: Any, mean: float) -> None:
    if np.isfinite(mean):
        draw(mean, color=INK, linewidth=1, linestyle=(0, (3, 3)), alpha=0.6)


def _count_bars(
    axes: "Axes", places: np.ndarray, counts: np.ndarray, lying: bool, numbers: bool
) -> None:
    present = counts[counts > 0]
    skewed = len(present) > 0 and present.max() / present.min() >= 20
    (axes.barh if lying else axes.bar)(
        places, counts, 0.66 if lying else 0.85, color=SERIES[7], alpha=0.55
    )
    if skewed:
        (axes.set_xscale if lying else axes.set_yscale)("log")
        log_axis(axes.xaxis if lying else axes.yaxis)
        (axes.set_xlim if lying else axes.set_ylim)(
            present.min() * 0.6, present.max() * (3 if lying else 1.5)
        )
    elif lying:
        axes.set_xlim(0, max(counts.max(), 1) * 1.3)
    if numbers:
        size = 8.5 if len(counts) <= 24 else 6.5
        floor = axes.get_xlim()[0]
        for place, count in zip(places, counts, strict=True):
            axes.annotate(
                f"{count:.0f}",
                (max(count, floor), place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=size,
                color=MUTED,
            )
        axes.set_xticks([])
        axes.tick_params(which="minor", labelbottom=False)
    axes.set_title("Training labels" + (" (log)" if skewed else ""), fontsize=9.5)
