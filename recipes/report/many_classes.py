"""Results of a task with too many classes for a confusion matrix: groups of classes as bars, the
worst and the best classes as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from recipes.report.matrices import vertical_bars
from recipes.report.record import RunRecord
from recipes.report.style import name_html, percent, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 100  # groups of classes in the figure
ROWS = 8  # classes at each end of the table


def large_tasks(record: RunRecord) -> list[str]:
    """Tasks whose results are known by class alone."""
    return [
        task
        for task, (samples, *_) in record.class_results.items()
        if task not in record.confusion and any(samples)
    ]


def shares_correct(record: RunRecord, task: str) -> np.ndarray:
    """Accuracy of each class [C]; NaN for a class without test samples."""
    samples, correct, _ = (np.asarray(row, dtype=float) for row in record.class_results[task])
    empty = np.full(len(samples), np.nan)
    return np.divide(correct, samples, out=empty, where=samples > 0)


@styled
def grouped_accuracy(record: RunRecord, task: str) -> "Figure":
    """Mean accuracy and mean number of training labels of groups of equally many classes, the most
    frequent classes first."""
    accuracy = shares_correct(record, task)
    mean = float(np.nanmean(accuracy))
    labels = record.train_counts.get(task)
    counts = None if labels is None else np.asarray(labels, dtype=float)
    order = np.arange(len(accuracy)) if counts is None else np.argsort(-counts, kind="stable")
    groups = np.array_split(order, BARS)
    tested = [group[np.isfinite(accuracy[group])] for group in groups]
    means = np.array([accuracy[g].mean() if len(g) else np.nan for g in tested])
    if counts is not None:
        counts = np.array([counts[group].mean() for group in groups])
    return vertical_bars(means, counts, mean)


def worst_and_best(record: RunRecord, task: str) -> tuple[list[int], list[int]]:
    """Numbers of the classes with the lowest and with the highest accuracy; of equal ones first
    those with the most test samples."""
    accuracy = shares_correct(record, task)
    samples = np.asarray(record.class_results[task][0])
    seen = np.flatnonzero(samples)
    worst = seen[np.lexsort((-samples[seen], accuracy[seen]))][:ROWS]
    best = seen[np.lexsort((-samples[seen], -accuracy[seen]))][:ROWS]
    return worst.tolist(), best.tolist()


def many_classes_html(record: RunRecord, task: str, names: Sequence[str]) -> str:
    """The table of the worst and the best classes."""
    worst, best = worst_and_best(record, task)
    samples, correct, predicted = record.class_results[task]
    labels = record.train_counts.get(task)

    def row(c: int) -> str:
        training = f'<td class="n">{labels[c]:,}</td>' if labels else ""
        return (
            f"<tr><td>{name_html(names[c])}</td>"
            f'<td class="n">{percent(correct[c] / samples[c])}</td>'
            f'<td class="n">{correct[c]:,} of {samples[c]:,}</td>'
            f'<td class="n">{predicted[c]:,}</td>{training}</tr>'
        )

    def table(title: str, classes: Sequence[int]) -> str:
        training = '<th class="n">labels</th>' if labels else ""
        head = (
            f'<tr class="head"><th>{title}</th><th class="n">accuracy</th>'
            f'<th class="n">correct</th><th class="n">predicted</th>{training}</tr>'
        )
        return f"<table>{head}{''.join(map(row, classes))}</table>"

    return table("worst classes", worst) + table("best classes", best)


def many_classes_note(record: RunRecord, task: str) -> str:
    """What the section shows, in words."""
    samples, correct, _ = record.class_results[task]
    classes = len(samples)
    return (
        f"{percent(sum(correct) / sum(samples))} of {sum(samples):,} test samples are correct. "
        f"{classes:,} classes are too many for a confusion matrix: each bar is the mean of about "
        f"{max(classes // BARS, 1):,} classes, the tables have the worst and the best ones."
    )
