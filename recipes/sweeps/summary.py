"""The results of a sweep: a table in the console, CSV and JSON files, and a page."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foundation.files import write_json, write_text
from recipes.sweeps.page import page_html
from recipes.sweeps.record import jobs_of
from recipes.sweeps.table import (
    SweepTable,
    as_json,
    brief,
    counts,
    jobs_csv,
    make_table,
    rows_csv,
)

WIDTH = 160  # columns where the output is not a terminal


def summarize(sweep: Path, command: Sequence[str] = (), console: Console | None = None) -> bool:
    """Print and write the results of a sweep; returns whether all jobs are over."""
    table = make_table(jobs_of(sweep))
    write_text(sweep / "sweep.csv", rows_csv(table))
    write_text(sweep / "jobs.csv", jobs_csv(table))
    write_json(sweep / "sweep.json", as_json(table))
    write_text(sweep / "sweep.html", page_html(table, sweep, command))
    if console is None:
        terminal = sys.stdout.isatty()
        console = Console(file=sys.stdout, width=None if terminal else WIDTH)
    console.print(console_table(table), markup=False, highlight=False)
    over = all(job.over for job in table.jobs.values())
    hint = "" if over else "; the same command runs the jobs that are not done"
    print(counts(table.jobs) + hint, file=console.file)
    print(sweep / "sweep.html", file=console.file)
    return over


def console_table(table: SweepTable) -> Table:
    incomplete = any(row.not_done() for row in table.rows)
    shown = Table()
    for key in table.swept:
        shown.add_column(Text(key), overflow="fold")
    shown.add_column("runs", justify="right", no_wrap=True)
    for name in table.metrics:
        shown.add_column(Text(name), justify="right", no_wrap=True)
    if incomplete:
        shown.add_column("not done", overflow="fold")
    for row in table.rows:
        cells = [brief(row.setting[key]) for key in table.swept] + [row.runs]
        cells += [row.text(name) for name in table.metrics]
        if incomplete:
            cells.append("\n".join(row.not_done()))
        style = "bold" if row is table.best else ""
        shown.add_row(*(Text(cell, style=style) for cell in cells))
    return shown
