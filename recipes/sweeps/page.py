"""The page of a sweep: one self-contained HTML file with the table, a figure per swept key, and all
jobs."""

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from recipes.report.numbers import Tile, clock, value_text
from recipes.report.page_layout import Card, document, figure_card, header, tile
from recipes.sweeps.figures import drawable, metric_over, search_history
from recipes.sweeps.record import Job
from recipes.sweeps.table import Row, SweepTable, brief, counts


def page_html(table: SweepTable, sweep: Path, command: Sequence[str]) -> str:
    """The page as HTML. command: the overrides of the sweep."""
    note = "The best row first."
    if any(len(row.jobs) > 1 for row in table.rows):
        note = "Mean ± sample standard deviation over seeds, the best row first."
    note += f" Judged by {table.monitor or 'no metric yet'}."
    jobs_note = "The number of a finished job links to its report."
    cards = [
        Card("Results", note, results_table(table), wide=True),
        *figure_cards(table),
        Card("Jobs", jobs_note, jobs_table(table, sweep), wide=True),
        Card("Commands", "", commands(table, command), wide=True),
    ]
    title = f"Sweep over {', '.join(table.swept) or 'seeds'}"
    footer = (
        "Written by Roux. All metrics are in sweep.csv, jobs.csv and sweep.json in the same folder."
    )
    return document(title, page_header(table, title), cards, footer)


def page_header(table: SweepTable, title: str) -> str:
    total, _, states = counts(table.jobs).partition(": ")
    facts = [f"<b>{escape(total)}</b>", *map(escape, states.split(", "))]
    facts_html = "".join(f"<span>{fact}</span>" for fact in facts)
    tiles = ""
    if table.best:
        tiles = "".join(best_tile(table, table.best, name) for name in table.metrics)
    return header(title, facts_html, tiles)


def best_tile(table: SweepTable, best: Row, name: str) -> str:
    """A metric of the best row; the first metric is shown with the row's setting."""
    if name not in best.statistics:
        return ""
    title = name.replace("_", " ").replace("/", " · ")
    found = best.statistics[name]
    value = value_text(name, found.mean)
    # beside the mean: the tile is too narrow for both
    beside = [found.deviation_text(name)] if found.std is not None else []
    if name != table.metrics[0]:
        return tile(Tile(title, value, ", ".join(beside)), first=False)
    beside += [f"{key} {brief(text)}" for key, text in best.setting.items()]
    return tile(Tile(f"{title} · best", value, ", ".join(beside)), first=True)


def results_table(table: SweepTable) -> str:
    """A row per setting, the best one in bold."""
    incomplete = any(row.not_done() for row in table.rows)
    head = "".join(f"<th>{escape(key)}</th>" for key in table.swept)
    head += "".join(f'<th class="n">{escape(name)}</th>' for name in ("runs", *table.metrics))
    if incomplete:
        head += '<th class="why">not done</th>'
    body = ""
    for row in table.rows:
        cells = "".join(f"<td>{escape(brief(row.setting[key]))}</td>" for key in table.swept)
        cells += f'<td class="n">{row.runs}</td>'
        for name in table.metrics:
            text = escape(row.text(name))
            if row is table.best:
                text = f"<b>{text}</b>"
            cells += f'<td class="n">{text}</td>'
        if incomplete:
            cells += f'<td class="why">{"<br>".join(map(escape, row.not_done()))}</td>'
        body += f"<tr>{cells}</tr>"
    return spaced(f'<table><tr class="head">{head}</tr>{body}</table>')


def spaced(table: str) -> str:
    """A table that scrolls horizontally on a narrow screen."""
    style = (
        "<style>.wider{overflow-x:auto}.wider td,.wider "
        "th{padding-right:1rem;padding-left:0;overflow-wrap:normal}"
        ".wider th{white-space:nowrap}"
        ".wider td.why,.wider th.why{padding-right:0;min-width:14rem}.wider "
        ".why{color:var(--bad)}</style>"
    )
    return f'{style}<div class="wider">{table}</div>'


def figure_cards(table: SweepTable) -> list[Card]:
    if table.best is None:
        return []
    note = figure_note(table)
    cards: list[Card] = []
    for i, key in enumerate(drawable(table)):
        title = f"{table.monitor} by {key}"
        cards += figure_card(f"sweep{i}", title, note, metric_over(table, key))
    cards += figure_card("search", "Search", "In order of the jobs.", search_history(table))
    return cards


def figure_note(table: SweepTable) -> str:
    """What is drawn: only what the figures of this sweep have."""
    note = "Small dots: runs. Large dots: means of a setting."
    if any(len(row.jobs) > 1 for row in table.rows):
        note = (
            "Small dots: runs. Large dots with whiskers: mean and sample standard deviation over "
            "seeds."
        )
    if any(job.value is None for job in table.jobs.values()):
        note += " Crosses: runs without a result."
    return note


def jobs_table(table: SweepTable, sweep: Path) -> str:
    head = '<th>job</th><th>setting</th><th>state</th><th class="n">attempts</th>'
    head += f'<th class="n">{escape(table.monitor)}</th><th class="n">time</th>'
    body = "".join(job_row(table, number, job, sweep) for number, job in table.jobs.items())
    return spaced(f'<table><tr class="head">{head}</tr>{body}</table>')


def job_row(table: SweepTable, number: int, job: Job, sweep: Path) -> str:
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


def commands(table: SweepTable, command: Sequence[str]) -> str:
    """The sweep's command, which runs the jobs that are missing, and that of a run with the best
    values."""
    lines = {}
    if command:
        missing = any(job.state != "done" for job in table.jobs.values())
        lines["Run the missing jobs" if missing else "The sweep"] = command
    if table.best:
        job = next(iter(table.best.jobs.values()))
        # a user's own configs must be found for the single run too
        searchpath = [word for word in command if word.startswith("hydra.searchpath=")]
        lines["A run with the best values"] = [*searchpath, *job.overrides]
    html = ""
    for title, overrides in lines.items():
        text = shlex.join(["python", "train.py", *overrides])
        html += f'<p class="note" style="margin:.7rem 0 .3rem">{title}</p>'
        html += f'<pre class="command">{escape(text)}</pre>'
    return html
