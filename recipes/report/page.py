"""The page of a run: one HTML file with everything in it, to be opened, sent or printed. No script,
no network."""

from collections.abc import Sequence
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
from recipes.report.matrices import NAMED, confused_pairs
from recipes.report.numbers import clock, headline, value_text
from recipes.report.page_css import CSS
from recipes.report.page_views import views_html
from recipes.report.record import RunRecord, matrix
from recipes.report.style import percent, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(record: RunRecord, path: str | Path) -> Path:
    """Write the page of a run, whole or not at all. Raises `UserError` where the folder cannot be
    written."""
    return write_text(path, page_html(record))


def page_html(record: RunRecord) -> str:
    """The page as text. A section without data is left out."""
    others = diagnostics(record)
    cards = [
        _changes_card(record),
        figure_card("curves", "Learning curves", "", learning_curves(record)),
        figure_card(
            "pseudo",
            "Unlabeled data",
            "What the model made of its own pseudo-labels.",
            pseudo_labels(record),
        ),
        *(part for task in record.confusion for part in _task_cards(record, task)),
        _views_card(record),
        figure_card("other", "Other numbers", "Everything else that was logged.", others),
        _run_card(record, wide=others is None),
        _text_card(record),
    ]
    footer = (
        "Written by Roux at the end of the run. All numbers lie beside this page in metrics.csv "
        "and metrics.json."
    )
    return document(record.title, _header(record), [part for part in cards if part], footer)


def document(title: str, header: str, cards: Sequence[str], footer: str) -> str:
    """A whole page of ours: a header, cards in a grid, a line at the foot."""
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
    steps = max((row["step"] for row in record.history), default=0)
    labels = {task: sum(counts) for task, counts in record.train_counts.items() if len(counts) > 0}
    facts = [f"<span><b>{steps:,}</b> steps</span>"] if steps else []
    if "train" in record.seconds or "train_seconds" in record.final:
        seconds = record.seconds.get("train", record.final.get("train_seconds", 0.0))
        facts.append(f"<span><b>{escape(clock(seconds))}</b> of training</span>")
    if len(set(labels.values())) == 1:
        labels = {"": next(iter(labels.values()))}
    facts += [
        f"<span><b>{total:,}</b> labels{escape(f' ({task})') if task else ''}</span>"
        for task, total in labels.items()
    ]
    facts += [f"<span>{escape(record.hardware)}</span>"] if record.hardware else []
    tiles = "".join(
        f'<div class="tile{" first" if number == 0 else ""}"><div class="name">{escape(tile.name)}</div>'
        f'<div class="value">{escape(tile.value)}</div>'
        + (f'<div class="beside">{escape(tile.beside)}</div>' if tile.beside else "")
        + "</div>"
        for number, tile in enumerate(headline(record.final))
    )
    return (
        f'<header><div class="brand">Roux</div>\n<h1>{escape(record.title)}</h1>\n'
        + (f'<p class="facts">{"".join(facts)}</p>\n' if facts else "")
        + (f'<div class="tiles">{tiles}</div>\n' if tiles else "<br>")
        + "</header>"
    )


def card(title: str, note: str, body: str, wide: bool = False) -> str:
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card{" wide" if wide else ""}"><h2>{escape(title)}</h2>{note}\n{body}</section>'


def figure_card(key: str, title: str, note: str, figure: "Figure | None") -> str:
    return "" if figure is None else card(title, note, to_svg(figure, key))


def _task_cards(record: RunRecord, task: str) -> list[str]:
    confusion = matrix(record.confusion[task])
    names = class_names(record, task)
    if confusion.sum() == 0:
        return []
    key = f"task{list(record.confusion).index(task)}"
    suffix = f": {task}" if len(record.confusion) > 1 else ""
    # under the shorter of the two figures
    beside = (
        (_pairs_table(confusion, names), "")
        if 12 < len(names) <= NAMED
        else ("", _pairs_table(confusion, names))
    )
    accuracy = percent(confusion.diagonal().sum() / confusion.sum())
    note = (
        f"{accuracy} of {confusion.sum():,.0f} test samples on the diagonal. Colour: share of the "
        "true class."
    )
    first = card(
        f"Confusion{suffix}",
        note,
        to_svg(confusion_figure(confusion, names), f"{key}c") + beside[0],
    )
    counts = record.train_counts.get(task)
    bars = to_svg(class_accuracy(confusion, names, counts), f"{key}b")
    note = "Test accuracy of each class" + (
        "." if counts is None else " against its labels in training."
    )
    return [first, card(f"Classes{suffix}", note, bars + beside[1])]


def _pairs_table(confusion: object, names: list[str]) -> str:
    pairs = confused_pairs(confusion, 8 if len(names) > 14 else 5)
    if not pairs:
        return ""
    rows = "".join(
        f'<tr><td>{escape(names[true])}</td><td>{escape(names[said])}</td><td class="n">{count}</td>'
        f'<td class="n">{percent(share)}</td></tr>'
        for true, said, count, share in pairs
    )
    head = '<tr class="head"><th>true</th><th>taken for</th><th class="n">times</th><th class="n">of its class</th></tr>'
    return f"<table>{head}{rows}</table>"


def _views_card(record: RunRecord) -> str:
    if not record.views:
        return ""
    believed = any(row.pseudo_label is not None for row in record.views)
    note = (
        "Weak view beside strong view"
        if record.views[0].kind == "image"
        else "Weak view above strong view"
    )
    note += (
        ", with the pseudo-label and its confidence below. Dashed: below the threshold, not "
        "learned from."
        if believed
        else "."
    )
    return card("Views", note, views_html(record.views), wide=True)


def _run_card(record: RunRecord, wide: bool) -> str:
    total = sum(record.seconds.values())
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td><div class="bar"><i style="width:{100 * value / total:.1f}%"></i></div></td>'
        f'<td class="n">{escape(clock(value))}</td></tr>'
        for name, value in record.seconds.items()
        if total > 0 and len(record.seconds) > 1
    )
    finals = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{escape(value_text(name, value))}</td></tr>'
        for name, value in record.final.items()
    )
    chips = "".join(
        f"<span>{escape(name)} {escape(str(version))}</span>"
        for name, version in record.versions.items()
    )
    parts: list[tuple[str, str]] = [
        (record.command, f'<pre class="command">{escape(record.command)}</pre>'),
        (record.hardware, f'<p class="note" style="margin:.6rem 0">{escape(record.hardware)}</p>'),
        (rows, f"<table>{rows}</table>"),
        (chips, f'<div class="chips">{chips}</div>'),
        (
            finals,
            f'<details style="margin-top:.8rem"><summary>All final values</summary><table>{finals}</table></details>',
        ),
    ]
    body = "\n".join(html for source, html in parts if source)
    return card("Run", "How to get this again.", body, wide) if body else ""


def _changes_card(record: RunRecord) -> str:
    if not record.changes:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in record.changes)
    note = "The run was resumed with other settings."
    return card("Settings changed on the way", note, f"<ul>{lines}</ul>", wide=True)


def _text_card(record: RunRecord) -> str:
    parts = [("Plan", record.plan, True), ("Config", record.config, False)]
    body = "\n".join(
        f"<details{' open' if unfolded else ''}><summary>{name}</summary><pre>{escape(text.strip())}</pre></details>"
        for name, text, unfolded in parts
        if text.strip()
    )
    return f'<section class="card wide">{body}</section>' if body else ""
