"""The report of a run: one self-contained HTML file to open, send or print, without scripts and
without network access."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.files import write_text
from recipes.report.figures import (
    class_accuracy,
    class_names,
    confusion_figure,
    diagnostics,
    learning_curves,
    pseudo_labels,
)
from recipes.report.many_classes import (
    grouped_accuracy,
    large_tasks,
    many_classes_html,
    many_classes_note,
)
from recipes.report.matrices import NAMED, confused_pairs
from recipes.report.numbers import Tile, clock, headline, value_text
from recipes.report.page_css import CSS
from recipes.report.page_views import views_html
from recipes.report.record import RunRecord, matrix
from recipes.report.style import percent, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(record: RunRecord, path: str | Path) -> Path:
    """Write the report atomically. Raises `UserError` where the folder is not writable."""
    return write_text(path, page_html(record))


def page_html(record: RunRecord) -> str:
    """The report as HTML. Sections without data are omitted."""
    others = diagnostics(record)
    pseudo_note = "Pseudo-labels during training: how many were used, and how many were right."
    cards = [
        _changes_card(record),
        figure_card("curves", "Learning curves", "", learning_curves(record)),
        figure_card("pseudo", "Unlabeled data", pseudo_note, pseudo_labels(record)),
    ]
    for task in record.confusion:
        cards += _task_cards(record, task)
    cards += [_large_task_card(record, task) for task in large_tasks(record)]
    cards += [
        _views_card(record),
        figure_card("other", "Other metrics", "All other logged metrics.", others),
        _run_card(record, wide=others is None),
        _text_card(record),
    ]
    footer = (
        "Written by Roux at the end of the run. All metrics are in metrics.csv and metrics.json "
        "in the same folder."
    )
    return document(record.title, _header(record), [text for text in cards if text], footer)


def document(title: str, header: str, cards: Sequence[str], footer: str) -> str:
    """A complete page: a header, a grid of cards, a footer line."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f"<style>{CSS}</style>\n</head>\n"
        f'<body>\n<main>\n{header}\n<div class="grid">\n'
        + "\n".join(cards)
        + f"\n</div>\n<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def _header(record: RunRecord) -> str:
    facts = "".join(f"<span>{fact}</span>" for fact in _facts(record))
    numbers = headline(record.final)
    tiles = "".join(tile(number, first=number is numbers[0]) for number in numbers)
    return header(record.title, facts, tiles)


def header(title: str, facts: str, tiles: str) -> str:
    """The top of a page: its title, a line of facts and the headline numbers."""
    return (
        f'<header><div class="brand">Roux</div>\n<h1>{escape(title)}</h1>\n'
        + (f'<p class="facts">{facts}</p>\n' if facts else "")
        + (f'<div class="tiles">{tiles}</div>\n' if tiles else "<br>")
        + "</header>"
    )


def tile(number: Tile, first: bool) -> str:
    """A headline number; the first one is larger."""
    beside = f'<div class="beside">{escape(number.beside)}</div>' if number.beside else ""
    return (
        f'<div class="tile{" first" if first else ""}">'
        f'<div class="name">{escape(number.name)}</div>'
        f'<div class="value">{escape(number.value)}</div>{beside}</div>'
    )


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
        facts += [f"<b>{total:,}</b> labels ({escape(task)})" for task, total in labels.items()]
    if record.hardware:
        facts.append(escape(record.hardware))
    return facts


def card(title: str, note: str, body: str, wide: bool = False) -> str:
    """A titled section. body: HTML. wide: over both columns of the grid."""
    note_html = f'<p class="note">{escape(note)}</p>' if note else ""
    style = "card wide" if wide else "card"
    return f'<section class="{style}"><h2>{escape(title)}</h2>{note_html}\n{body}</section>'


def figure_card(key: str, title: str, note: str, figure: "Figure | None") -> str:
    """A section with a figure; empty without one. key: prefix of the figure's ids."""
    return "" if figure is None else card(title, note, to_svg(figure, key))


def _task_cards(record: RunRecord, task: str) -> list[str]:
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
    bars_svg = to_svg(class_accuracy(confusion, names, counts), f"{key}b")
    # the table fills the space below the shorter of the two figures
    table = _pairs_table(confusion, names)
    if 12 < len(names) <= NAMED:
        matrix_svg += table
    else:
        bars_svg += table
    return [
        card(f"Confusion{suffix}", note, matrix_svg),
        card(f"Classes{suffix}", bars_note, bars_svg),
    ]


def _large_task_card(record: RunRecord, task: str) -> str:
    """The section of a task with too many classes for a matrix."""
    suffix = f": {task}" if len(record.class_results) > 1 else ""
    key = f"large{list(record.class_results).index(task)}"
    body = to_svg(grouped_accuracy(record, task), key)
    body += many_classes_html(record, task, class_names(record, task))
    return card(f"Classes{suffix}", many_classes_note(record, task), body)


def _pairs_table(confusion: object, names: list[str]) -> str:
    pairs = confused_pairs(confusion, 8 if len(names) > 14 else 5)
    if not pairs:
        return ""
    rows = "".join(
        f"<tr><td>{escape(names[true])}</td><td>{escape(names[predicted])}</td>"
        f'<td class="n">{count}</td><td class="n">{percent(share)}</td></tr>'
        for true, predicted, count, share in pairs
    )
    head = (
        '<tr class="head"><th>true</th><th>predicted</th><th class="n">count</th>'
        '<th class="n">of its class</th></tr>'
    )
    return f"<table>{head}{rows}</table>"


def _views_card(record: RunRecord) -> str:
    if not record.views:
        return ""
    where = "beside" if record.views[0].kind == "image" else "above"
    note = f"Weak view {where} strong view."
    if any(row.pseudo_label is not None for row in record.views):
        note = (
            f"Weak view {where} strong view, with pseudo-label and confidence. Dashed: confidence "
            "below the threshold, not in the loss."
        )
    return card("Views", note, views_html(record.views), wide=True)


def _run_card(record: RunRecord, wide: bool) -> str:
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
    if not parts:
        return ""
    return card("Run", "Command and environment.", "\n".join(parts), wide)


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


def _changes_card(record: RunRecord) -> str:
    if not record.changes:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in record.changes)
    note = "The run was resumed with other settings."
    return card("Changed settings", note, f"<ul>{lines}</ul>", wide=True)


def _text_card(record: RunRecord) -> str:
    parts = [("Plan", record.plan, True), ("Config", record.config, False)]
    body = "\n".join(
        f"<details{' open' if unfolded else ''}><summary>{name}</summary><pre>{escape(text.strip())}</pre></details>"
        for name, text, unfolded in parts
        if text.strip()
    )
    return f'<section class="card wide">{body}</section>' if body else ""
