"""The report of a run: one self-contained HTML file to open, send or print, without scripts and
without network access."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path

from foundation.attempts import Attempts
from foundation.files import write_text
from recipes.report.figures import (
    class_accuracy,
    class_names,
    confusion_figure,
    diagnostics,
    learning_curves,
    other_names,
    pseudo_labels,
)
from recipes.report.many_classes import (
    grouped_accuracy,
    large_tasks,
    many_classes_html,
    many_classes_note,
)
from recipes.report.matrices import NAMED, confused_pairs
from recipes.report.numbers import clock, headline, value_text
from recipes.report.page_layout import Card, document, figure_card, header, lost_card, tile
from recipes.report.page_views import gallery_html, views_html, views_note
from recipes.report.record import RunRecord, matrix
from recipes.report.style import name_html, percent, to_svg

FOOTER = (
    "Written by Roux at the end of the run. All metrics are in metrics.csv and metrics.json in the "
    "same folder."
)
CURVES_NOTE = (
    "Faint: the values as they were logged. Strong: their mean over neighboring steps, before and "
    "after. Validation values are as measured."
)


def write_report(record: RunRecord, path: str | Path) -> list[str]:
    """Write the report atomically; returns a line for each part of it that could not be made.
    Raises `UserError` where the folder is not writable."""
    page, lost = page_and_lost(record)
    write_text(path, page)
    return lost


def page_html(record: RunRecord) -> str:
    """The report as HTML. Sections without data are omitted."""
    return page_and_lost(record)[0]


def page_and_lost(record: RunRecord) -> tuple[str, list[str]]:
    """The report, and a line for each part of it that could not be made; in the page the line
    stands in its place."""
    attempts = Attempts()
    cards: list[Card] = []
    for title, make in _parts(record):
        before = len(attempts.lost)
        cards += attempts.make(title, make, [])
        cards += [lost_card(title, line) for line in attempts.lost[before:]]
    plain = header(record.title, "", "")
    top = attempts.make("header", lambda: _header(record), plain)
    return document(record.title, top, cards, FOOTER), attempts.lost


def _parts(record: RunRecord) -> Iterator[tuple[str, Callable[[], list[Card]]]]:
    """The parts of the page in order: a title, and what makes its cards."""
    yield "Warning", lambda: _warning_cards(record)
    yield "Changed settings", lambda: _changes_cards(record)
    yield "Missing parts", lambda: [lost_card("Missing part", line) for line in record.lost]
    yield "Learning curves", lambda: _curves_cards(record)
    yield "Unlabeled data", lambda: _pseudo_cards(record)
    yield "Measurements", lambda: _measured_cards(record)
    for task in record.confusion:
        yield f"Classes of {task}", partial(_task_cards, record, task)
    for task in large_tasks(record):
        yield f"Classes of {task}", partial(_large_task_cards, record, task)
    yield "Values of samples", lambda: _remarks_cards(record)
    for number, gallery in enumerate(record.galleries):
        yield gallery.title, partial(_gallery_cards, record, number)
    yield "Views", lambda: _views_cards(record)
    yield "Other metrics", lambda: _other_cards(record)
    yield "Run", lambda: _run_cards(record)
    yield "Plan", lambda: _text_cards(record)


def _curves_cards(record: RunRecord) -> list[Card]:
    return figure_card("curves", "Learning curves", CURVES_NOTE, learning_curves(record))


def _pseudo_cards(record: RunRecord) -> list[Card]:
    note = "Pseudo-labels during training: how many were used, and how many were right."
    return figure_card("pseudo", "Unlabeled data", note, pseudo_labels(record))


def _other_cards(record: RunRecord) -> list[Card]:
    names = other_names(record)
    # one tall card beside a short one would leave half of a row empty
    half = -(-len(names) // 4) * 2 if len(names) > 2 else len(names)
    cards: list[Card] = []
    for part, title in (
        (names[:half], "Other metrics"),
        (names[half:], "Other metrics, continued"),
    ):
        key = f"other{len(cards)}"
        cards += figure_card(key, title, "All other logged metrics.", diagnostics(record, part))
    return [replace(card, first=i == 0) for i, card in enumerate(cards)]


def _header(record: RunRecord) -> str:
    facts = "".join(f"<span>{fact}</span>" for fact in _facts(record))
    numbers = headline(record.final, monitor=record.monitor)
    tiles = "".join(tile(number, first=number is numbers[0]) for number in numbers)
    return header(record.title, facts, tiles)


def _facts(record: RunRecord) -> list[str]:
    facts = []
    steps = max((row["step"] for row in record.history), default=0)
    if steps:
        facts.append(f"<b>{steps:,}</b> steps")
    seconds = record.seconds.get("train", record.final.get("train_seconds"))
    if seconds is not None:
        facts.append(f"<b>{escape(clock(seconds))}</b> of training")
    labels = {task: sum(counts) for task, counts in record.train_counts.items() if len(counts) > 0}
    # tasks of one number are named together: "40 labels"
    if len(set(labels.values())) == 1:
        facts.append(f"<b>{next(iter(labels.values())):,}</b> labels")
    else:
        facts += [f"<b>{total:,}</b> labels ({name_html(task)})" for task, total in labels.items()]
    if record.hardware:
        facts.append(escape(record.hardware))
    return facts


def _task_cards(record: RunRecord, task: str) -> list[Card]:
    confusion = matrix(record.confusion[task])
    names = class_names(record, task)
    if confusion.sum() == 0:
        return []
    key = f"task{list(record.confusion).index(task)}"
    suffix = f": {task}" if len(record.confusion) > 1 else ""
    accuracy = percent(confusion.diagonal().sum() / confusion.sum())
    note = (
        f"{accuracy} of {confusion.sum():,.0f} test samples are on the diagonal. Opacity: share of "
        "the true class."
    )
    matrix_svg = to_svg(confusion_figure(confusion, names), f"{key}c")
    counts = record.train_counts.get(task)
    bars_note = "Test accuracy of each class."
    if counts is not None:
        bars_note = "Test accuracy and number of training labels of each class."
        if min(counts, default=0) < max(counts, default=0):
            bars_note += " Sorted by the number of labels, the most frequent class first."
    bars_svg = to_svg(class_accuracy(confusion, names, counts), f"{key}b")
    # the table fills the space below the shorter of the two figures
    table = _pairs_table(confusion, names)
    if 12 < len(names) <= NAMED:
        matrix_svg += table
    else:
        bars_svg += table
    return [
        Card(f"Confusion{suffix}", note, matrix_svg, first=True),
        Card(f"Classes{suffix}", bars_note, bars_svg),
    ]


def _large_task_cards(record: RunRecord, task: str) -> list[Card]:
    """The section of a task with too many classes for a matrix."""
    suffix = f": {task}" if len(record.class_results) > 1 else ""
    key = f"large{list(record.class_results).index(task)}"
    body = to_svg(grouped_accuracy(record, task), key)
    body += many_classes_html(record, task, class_names(record, task))
    return [Card(f"Classes{suffix}", many_classes_note(record, task), body)]


def _pairs_table(confusion: object, names: list[str]) -> str:
    pairs = confused_pairs(confusion, 8 if len(names) > 14 else 5)
    if not pairs:
        return ""
    rows = "".join(
        f"<tr><td>{name_html(names[true])}</td><td>{name_html(names[predicted])}</td>"
        f'<td class="n">{count}</td><td class="n">{percent(share)}</td></tr>'
        for true, predicted, count, share in pairs
    )
    head = (
        '<tr class="head"><th>true</th><th>predicted</th><th class="n">count</th>'
        '<th class="n">of its class</th></tr>'
    )
    return f"<table>{head}{rows}</table>"


def _views_cards(record: RunRecord) -> list[Card]:
    if not record.views:
        return []
    note = views_note(record.views, record.view_names)
    return [Card("Views", note, views_html(record.views, record.view_names), wide=True)]


def _measured_cards(record: RunRecord) -> list[Card]:
    """What robust accuracy and the like cannot be read without."""
    lines = [(name, text) for name, text in record.measured.items() if text]
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in lines)
    note = "How the measurements under evaluate were made."
    return [Card("Measurements", note, f"<ul>{items}</ul>", wide=True)] if lines else []


def _remarks_cards(record: RunRecord) -> list[Card]:
    """What methods say about the test samples."""
    if not record.remarks:
        return []
    columns = list(next(iter(record.remarks.values())))
    head = "".join(f'<th class="n">{escape(name)}</th>' for name in columns)
    rows = ""
    for name, summary in record.remarks.items():
        cells = "".join(f'<td class="n">{value_text("", summary[c])}</td>' for c in columns)
        rows += f"<tr><td>{name_html(name)}</td>{cells}</tr>"
    table = f'<table><tr class="head"><th>value</th>{head}</tr>{rows}</table>'
    note = "What methods say about each test sample; flagged: 1 above the alarm, 0 below."
    return [Card("Values of samples", note, table, wide=True)]


def _gallery_cards(record: RunRecord, number: int) -> list[Card]:
    gallery = record.galleries[number]
    return [Card(gallery.title, gallery.note, gallery_html(gallery), wide=True)]


def _run_cards(record: RunRecord) -> list[Card]:
    chips = "".join(
        f"<span>{escape(name)} {escape(str(version))}</span>"
        for name, version in record.versions.items()
    )
    parts = []
    if record.command:
        parts.append(f'<pre class="command">{escape(record.command)}</pre>')
    if record.hardware:
        parts.append(f'<p class="note" style="margin:.6rem 0">{escape(record.hardware)}</p>')
    if len(record.seconds) > 1 and sum(record.seconds.values()) > 0:
        parts.append(_seconds_table(record.seconds))
    if chips:
        parts.append(f'<div class="chips">{chips}</div>')
    if record.final:
        parts.append(_final_values(record.final))
    body = "\n".join(parts)
    return [Card("Run", "Command and environment.", body, wide=True)] if parts else []


def _seconds_table(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    rows = "".join(
        f"<tr><td>{escape(name)}</td>"
        f'<td><div class="bar"><i style="width:{100 * value / total:.1f}%"></i></div></td>'
        f'<td class="n">{escape(clock(value))}</td></tr>'
        for name, value in seconds.items()
    )
    return f"<table>{rows}</table>"


def _final_values(final: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{escape(value_text(name, value))}</td></tr>'
        for name, value in final.items()
    )
    return (
        '<details style="margin-top:.8rem"><summary>All final values</summary>'
        f"<table>{rows}</table></details>"
    )


def _warning_cards(record: RunRecord) -> list[Card]:
    return lines_card("Warning", "The result is not one of a sound run.", record.warnings)


def _changes_cards(record: RunRecord) -> list[Card]:
    return lines_card(
        "Changed settings", "The run was resumed with other settings.", record.changes
    )


def lines_card(title: str, note: str, lines: Sequence[str]) -> list[Card]:
    if not lines:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [Card(title, note, f"<ul>{items}</ul>", wide=True)]


def _text_cards(record: RunRecord) -> list[Card]:
    parts = [("Plan", record.plan, True), ("Config", record.config, False)]
    body = "\n".join(
        f"<details{' open' if unfolded else ''}><summary>{name}</summary><pre>{escape(text.strip())}</pre></details>"
        for name, text, unfolded in parts
        if text.strip()
    )
    return [Card("", "", body, wide=True)] if body else []
