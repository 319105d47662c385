"""The last lines on the console: the table of final metrics, and what the run took."""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipes.report.numbers import headline_first, is_cost, paired, raw_twin, tested, value_text


def final_table(
    final: Mapping[str, float],
    title: str | Path = "",
    reported: str = "reported",
    monitor: str = "",
) -> Table:
    """Final metrics, test first; the metric that judges the run is the first and bold. Time and
    memory are not among them.

    Where the reported metrics differ from those of the raw weights (EMA weights; changed inputs or
    logits), both are listed.

    reported: heading of the reported metrics, see `RunRecord`.
    """
    rows = [row for row in headline_first(paired(final), monitor) if not is_cost(row[0])]
    two_columns = any(raw is not None and value is not None for _, value, raw in rows)
    table = Table(title=Text(str(title)) if str(title) else None, title_justify="left")
    table.add_column("metric", overflow="fold")
    table.add_column(reported if two_columns else "value", justify="right", no_wrap=True)
    if two_columns:
        table.add_column("raw", justify="right", no_wrap=True)
    group = ""
    for i, (name, value, raw) in enumerate(rows):
        if i and name.partition("/")[0] != group:
            table.add_section()
        group = name.partition("/")[0]
        style = "bold" if name in (monitor, tested(monitor)) else ""
        shown_name = raw_twin(name) if value is None and not two_columns else name
        cells = [_cell(name, raw if value is None and not two_columns else value)]
        if two_columns:
            cells.append(_cell(name, raw))
        table.add_row(Text(shown_name), *cells, style=style)
    return table


def costs(final: Mapping[str, float]) -> str:
    """`train time 23 s, peak memory 756 MiB`: what the run took."""
    parts = []
    for name, value in final.items():
        if is_cost(name):
            words = name.replace("_seconds", " time").replace("_bytes", "").replace("_", " ")
            parts.append(f"{words} {value_text(name, value)}")
    return ", ".join(parts)


def _cell(name: str, value: float | None) -> str:
    return "" if value is None else value_text(name, value)


def print_final(
    final: Mapping[str, float],
    title: str | Path = "",
    console: Console | None = None,
    reported: str = "reported",
    monitor: str = "",
) -> None:
    """Print `final_table`, and below it time and memory. Names are not parsed as Rich markup."""
    console = console or Console(file=sys.stdout, markup=False)
    table = final_table(final, title, reported, monitor)
    console.print(table, markup=False, highlight=False)
    if below := costs(final):
        console.print(below, markup=False, highlight=False)
