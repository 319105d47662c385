"""The end of a sweep: the table in the console, the same as CSV and JSON in its folder, and one
page."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from foundation.files import write_json, write_text
from recipes.sweeps.page import page_html
from recipes.sweeps.record import jobs_of
from recipes.sweeps.table import Table, brief, counts, jobs_csv, make_table, plain, rows_csv

WIDTH = 160  # of what is no terminal


def summarize(sweep: Path, command: Sequence[str] = (), console: Console | None = None) -> bool:
    """Show and write how a sweep went; whether all of its jobs are over."""
    table = make_table(jobs_of(sweep))
    write_text(sweep / "sweep.csv", rows_csv(table))
    write_text(sweep / "jobs.csv", jobs_csv(table))
    write_json(sweep / "sweep.json", plain(table))
    write_text(sweep / "sweep.html", page_html(table, sweep, command))
    if console is None:
        terminal = sys.stdout.isatty()
        console = Console(file=sys.stdout, width=None if terminal else WIDTH)
    console.print(console_table(table), markup=False, highlight=False)
    over = all(job.over for job in table.jobs.values())
    print(
        counts(table.jobs) + ("" if over else "; the same command runs what is not done"),
        file=console.file,
    )
    print(sweep / "sweep.html", file=console.file)
    return over


def console_table(table: Table) -> RichTable:
    missing = any(row.misses() for row in table.rows)
    shown = RichTable()
    for key in table.swept:
        shown.add_column(Text(key), overflow="fold")
    shown.add_column("runs", justify="right", no_wrap=True)
    for name in table.metrics:
        shown.add_column(Text(name), justify="right", no_wrap=True)
    if missing:
        shown.add_column("not done", overflow="fold")
    for row in table.rows:
        cells = [brief(row.setting[key]) for key in table.swept] + [row.runs]
        cells += [
            row.figures[name].text(name) if name in row.figures else "–" for name in table.metrics
        ]
        cells += ["\n".join(row.misses())] if missing else []
        shown.add_row(*(Text(cell, style="bold" if row is table.best else "") for cell in cells))
    return shown
