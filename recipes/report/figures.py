"""All figures of a run, by name: inline in the report, images in W&B and TensorBoard."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from foundation.attempts import Attempts
from recipes.report.curves import diagnostics, learning_curves, other_names, pseudo_labels
from recipes.report.many_classes import grouped_accuracy, large_tasks
from recipes.report.matrices import class_accuracy, confusion_figure
from recipes.report.record import RunRecord, ViewRow
from recipes.report.style import BAD, INK, MUTED, new_figure, percent, short, styled, to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "all_figures",
    "class_accuracy",
    "confusion_figure",
    "diagnostics",
    "figures_png",
    "learning_curves",
    "other_names",
]
__all__ += ["pseudo_labels", "view_sheet"]


Drawing = Callable[[], "Figure | None"]


def drawings(record: RunRecord) -> dict[str, Drawing]:
    """What draws each figure of a run: `learning_curves`, `pseudo_labels`, `confusion/TASK`,
    `class_accuracy/TASK`, `views` (images), `diagnostics`; None where the record lacks its data."""
    figures: dict[str, Drawing] = {
        "learning_curves": lambda: learning_curves(record),
        "pseudo_labels": lambda: pseudo_labels(record),
    }
    for task in record.confusion:
        figures[f"confusion/{task}"] = partial(task_confusion, record, task)
        figures[f"class_accuracy/{task}"] = partial(task_classes, record, task)
    for task in large_tasks(record):
        figures[f"class_accuracy/{task}"] = partial(grouped_accuracy, record, task)
    figures["views"] = lambda: view_sheet(record.views)
    figures["diagnostics"] = lambda: diagnostics(record)
    return figures


def task_confusion(record: RunRecord, task: str) -> "Figure":
    return confusion_figure(record.confusion[task], class_names(record, task))


def task_classes(record: RunRecord, task: str) -> "Figure":
    counts = record.train_counts.get(task)
    return class_accuracy(record.confusion[task], class_names(record, task), counts)


def all_figures(record: RunRecord) -> dict[str, "Figure"]:
    """The figures that the record has data for, by name."""
    made = {name: draw() for name, draw in drawings(record).items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def figures_png(record: RunRecord, attempts: Attempts) -> dict[str, bytes]:
    """The figures as PNG files, without those that fail."""
    pictures = {}
    for name, draw in drawings(record).items():
        picture = attempts.make(f"figure {name}", partial(_drawn, draw), None)
        if picture is not None:
            pictures[name] = picture
    return pictures


def _drawn(draw: Drawing) -> bytes | None:
    figure = draw()
    return None if figure is None else to_png(figure)


def class_names(record: RunRecord, task: str) -> list[str]:
    """Names of a task's classes; their numbers where the record has no names."""
    if task in record.confusion:
        size = len(record.confusion[task])
    else:
        size = len(record.class_results[task][0])
    names = record.classes.get(task, [])
    if len(names) == size:
        return list(map(str, names))
    return list(map(str, range(size)))


@styled
def view_sheet(rows: list[ViewRow], columns: int = 4, most: int = 16) -> "Figure | None":
    """Weak and strong view of up to `most` unlabeled images, with the pseudo-label above each pair;
    None without images."""
    images = [row for row in rows if row.kind == "image"][:most]
    if not images:
        return None
    lines = -(-len(images) // columns)
    figure = new_figure(height=0.3 + 1.05 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in grid:
        panel.set_axis_off()
    for panel, row in zip(grid, images, strict=False):
        weak = _rgb(np.asarray(row.weak))
        strong = _rgb(np.asarray(row.strong))
        gap = np.full((weak.shape[0], max(weak.shape[1] // 12, 1), 3), 255, dtype=np.uint8)
        panel.imshow(np.concatenate([weak, gap, strong], axis=1), interpolation="nearest")
        label = short(row.pseudo_label or "", 12)
        if row.confidence is not None:
            label += f" {percent(row.confidence, 0)}"
        colour = _label_colour(row)
        panel.set_title(label, fontsize=8, loc="center", pad=3, color=colour, fontweight="normal")
    return figure


def _label_colour(row: ViewRow) -> str:
    if None not in (row.true, row.pseudo_label) and row.true != row.pseudo_label:
        return BAD
    return MUTED if row.kept is False else INK


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels [H, W], [H, W, 1] or [H, W, 3] as [H, W, 3]."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
