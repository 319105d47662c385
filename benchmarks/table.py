"""Markdown tables."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        body = f"{self.title}\n\n{markdown(self.head, self.rows)}"
        return f"{body}\n\n{self.note}" if self.note else body


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns, all but the first to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for line in (head, rule, *rows):
        cells = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def of_words(head: Sequence[str], rows: Sequence[Sequence[str]], rule: str = "") -> str:
    """A table whose cells are not padded. rule: the line below the head, where columns differ."""
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    lines.insert(1, rule or f"| {' | '.join(['---'] * len(head))} |")
    return "\n".join(lines)


def mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f}"
