"""The page of a sweep: one HTML file with the table, a figure for every swept value, and all jobs.
No network."""

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from recipes.report.numbers import clock, value_text
from recipes.report.page import card, document, figure_card
from recipes.sweeps.figures import against, drawable, history
from recipes.sweeps.record import Job
from recipes.sweeps.table import Row, Table, brief, counts


def page_html(table: Table, sweep: Path, command: Sequence[str]) -> str:
    many = any(len(row.jobs) > 1 for row in table.rows)
    note = (
        "Mean ± sample standard deviation over seeds, the best row first."
        if many
        else "The best row first."
    )
    cards = [
        card(
            "Results",
            f"{note} Judged by {table.monitor or 'no metric yet'}.",
            results(table),
            wide=True,
        ),
        *figure_cards(table),
        card(
            "Jobs",
            "A finished job's number leads to the page of its run.",
            jobs_table(table, sweep),
            wide=True,
        ),
        card("Again", "", again(table, command), wide=True),
    ]
    title = f"Sweep over {', '.join(table.swept) or 'seeds'}"
    footer = (
        "Written by Roux. All numbers lie beside this page in sweep.csv, jobs.csv and sweep.json."
    )
    return document(title, header(table, title), [part for part in cards if part], footer)


def header(table: Table, title: str) -> str:
    total, _, rest = counts(table.jobs).partition(": ")
    facts = [f"<b>{escape(total)}</b>", *map(escape, rest.split(", "))]
    best = table.best
    tiles = (
        "".join(tile(name, best, number == 0) for number, name in enumerate(table.metrics))
        if best
        else ""
    )
    return (
        f'<header><div class="brand">Roux</div>\n<h1>{escape(title)}</h1>\n'
        f'<p class="facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>\n'
        + (f'<div class="tiles">{tiles}</div>\n' if tiles else "<br>")
        + "</header>"
    )


def tile(name: str, best: Row, first: bool) -> str:
    if name not in best.figures:
        return ""
    beside = (
        ", ".join(f"{key} {brief(value)}" for key, value in best.setting.items()) if first else ""
    )
    title = name.replace("_", " ").replace("/", " · ") + (" · best" if first else "")
    return (
        f'<div class="tile{" first" if first else ""}"><div class="name">{escape(title)}</div>'
        f'<div class="value">{escape(best.figures[name].text(name))}</div>'
        + (f'<div class="beside">{escape(beside)}</div>' if beside else "")
        + "</div>"
    )


def results(table: Table) -> str:
    missing = any(row.misses() for row in table.rows)
    numbers = ("runs", *table.metrics)
    head = "".join(f"<th>{escape(key)}</th>" for key in table.swept)
    head += "".join(f'<th class="n">{escape(name)}</th>' for name in numbers)
    head += '<th class="why">not done</th>' if missing else ""
    body = ""
    for row in table.rows:
        cells = "".join(f"<td>{escape(brief(row.setting[key]))}</td>" for key in table.swept)
        cells += f'<td class="n">{row.runs}</td>'
        for name in table.metrics:
            found = row.figures.get(name)
            text = found.text(name) if found else "–"
            cells += f'<td class="n">{f"<b>{escape(text)}</b>" if row is table.best else escape(text)}</td>'
        cells += f'<td class="why">{"<br>".join(map(escape, row.misses()))}</td>' if missing else ""
        body += f"<tr>{cells}</tr>"
    return spaced(f'<table><tr class="head">{head}</tr>{body}</table>')


def spaced(table: str) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    style = (
        "<style>.wider{overflow-x:auto}.wider td,.wider "
        "th{padding-right:1rem;padding-left:0;overflow-wrap:normal}"
        ".wider th{white-space:nowrap}"
        ".wider td.why,.wider th.why{padding-right:0;min-width:14rem}.wider "
        ".why{color:var(--bad)}</style>"
    )
    return f'{style}<div class="wider">{table}</div>'


def figure_cards(table: Table) -> list[str]:
    if table.best is None:
        return []
    cards = [
        figure_card(
            f"sweep{i}", key, "Dots: runs. Crosses: runs without a result.", against(table, key)
        )
        for i, key in enumerate(drawable(table))
    ]
    return [*cards, figure_card("search", "Search", "In the order of asking.", history(table))]


def jobs_table(table: Table, sweep: Path) -> str:
    head = '<th>job</th><th>setting</th><th>state</th><th class="n">attempts</th>'
    head += f'<th class="n">{escape(table.monitor)}</th><th class="n">time</th>'
    body = "".join(job_row(table, number, job, sweep) for number, job in table.jobs.items())
    return spaced(f'<table><tr class="head">{head}</tr>{body}</table>')


def job_row(table: Table, number: int, job: Job, sweep: Path) -> str:
    report = Path(job.run_dir or sweep / str(number)) / "report.html"
    name = str(number)
    if report.is_file() and report.is_relative_to(sweep):
        name = f'<a href="{escape(report.relative_to(sweep).as_posix(), quote=True)}">{number}</a>'
    value = value_text(table.monitor, job.metrics.get(table.monitor))
    reason = f": {escape(job.reason)}" if job.reason else ""
    colour = ' class="right"' if job.state == "done" else ' class="wrong"'
    return (
        f"<tr><td>{name}</td><td>{escape(job.label or ' '.join(job.overrides))}</td>"
        f'<td><span{colour}>{escape(job.state)}</span>{reason}</td><td class="n">{job.attempts}</td>'
        f'<td class="n">{escape(value)}</td><td class="n">{escape(clock(job.seconds))}</td></tr>'
    )


def again(table: Table, command: Sequence[str]) -> str:
    """The sweep's command, which runs what is missing, and that of a run with the best values."""
    parts = []
    if command:
        parts.append(("What is missing", shlex.join(["python", "train.py", *command])))
    if table.best:
        job = next(iter(table.best.jobs.values()))
        found = [word for word in command if word.startswith("hydra.searchpath=")]
        parts.append(
            (
                "A run with the best values",
                shlex.join(["python", "train.py", *found, *job.overrides]),
            )
        )
    return "".join(
        f'<p class="note" style="margin:.7rem 0 .3rem">{name}</p><pre class="command">{escape(text)}</pre>'
        for name, text in parts
    )
