"""All figures of a run, by name: inline in the report, images in W&B and TensorBoard."""

from typing import TYPE_CHECKING

import numpy as np

from recipes.report.curves import diagnostics, learning_curves, pseudo_labels
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
]
__all__ += ["pseudo_labels", "view_sheet"]


def all_figures(record: RunRecord) -> dict[str, "Figure"]:
    """The figures that the record has data for: `learning_curves`, `pseudo_labels`,
    `confusion/TASK`, `class_accuracy/TASK`, `views` (images), `diagnostics`."""
    figures: dict[str, Figure | None] = {
        "learning_curves": learning_curves(record),
        "pseudo_labels": pseudo_labels(record),
    }
    for task, confusion in record.confusion.items():
        names = class_names(record, task)
        counts = record.train_counts.get(task)
        figures[f"confusion/{task}"] = confusion_figure(confusion, names)
        figures[f"class_accuracy/{task}"] = class_accuracy(confusion, names, counts)
    for task in large_tasks(record):
        figures[f"class_accuracy/{task}"] = grouped_accuracy(record, task)
    figures["views"] = view_sheet(record.views)
    figures["diagnostics"] = diagnostics(record)
    return {name: figure for name, figure in figures.items() if figure is not None}


def figures_png(record: RunRecord) -> dict[str, bytes]:
    """`all_figures` as PNG files."""
    return {name: to_png(figure) for name, figure in all_figures(record).items()}


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
