"""The table of predictions: one row for each input, written through a temporary file."""

import csv
import math
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.names import printable
from foundation.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.predict.predictor import Predictor

# What a spreadsheet takes for the start of a formula, and numbers, which it may take for numbers.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def safe_cell(text: str) -> str:
    """A text that a spreadsheet shows and does not compute: a formula gets an apostrophe before it.
    Lone surrogates, which no file can have, become escapes."""
    text = printable(text)
    if text.startswith(FORMULA) and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


class Predictions:
    """Header and cells of the output. With several tasks, columns are named `label/TASK` etc.; what
    methods say about an input comes last, as `METHOD/NAME`."""

    def __init__(self, predictor: "Predictor", probabilities: bool, embeddings: bool):
        self.predictor = predictor
        self.probabilities = probabilities
        self.embeddings = embeddings
        # embeddings need no head, and replace all other columns
        self.remarks = [] if embeddings else list(predictor.predict([], "remarks"))
        self.width = len(self.header()) - 1

    def header(self) -> list[str]:
        if self.embeddings:
            dimensions = self.predictor.predict([], "embeddings").shape[1]
            return ["input", *(f"e{i}" for i in range(dimensions))]
        names = ["input"]
        classes = self.predictor.classes_by_task
        for task, labels in classes.items():
            end = f"/{task}" if len(classes) > 1 else ""
            names += [f"label{end}", f"confidence{end}"]
            names += [f"p{end}/{label}" for label in labels] if self.probabilities else []
        return [*names, *self.remarks]

    def rows(self, items: list[Any], first: int) -> list[list[str]]:
        """The cells after `input`, one row per input."""
        returns: Any = "embeddings" if self.embeddings else "probabilities"
        size = max(len(items), 1)
        found = self.predictor.predict(items, returns, batch_size=size, first=first)
        if self.embeddings:
            return [[f"{value:.6g}" for value in row] for row in found.tolist()]
        task = next(iter(self.predictor.classes_by_task))
        by_task = found if isinstance(found, dict) else {task: found}
        rows = []
        for i in range(len(items)):
            rows.append(self.cells({task: values[i] for task, values in by_task.items()}))
        if self.remarks:
            remarks = self.predictor.predict(items, "remarks", batch_size=size, first=first)
            for i, row in enumerate(rows):
                row += [number_cell(float(remarks[name][i])) for name in self.remarks]
        return rows

    def cells(self, row: dict[str, "Tensor"]) -> list[str]:
        cells: list[str] = []
        for task, values in row.items():
            cells += [
                safe_cell(self.predictor.classes_by_task[task][int(values.argmax())]),
                f"{float(values.max()):.6f}",
            ]
            cells += [f"{value:.6f}" for value in values.tolist()] if self.probabilities else []
        return cells


def number_cell(value: float) -> str:
    """Six digits; empty for what is not known."""
    return "" if math.isnan(value) else f"{value:.6g}"


def write_table(
    target: Path, table: Predictions, names: list[str], items: list[Any], batch_size: int
) -> list[str]:
    """Write through a temporary file, so that no partial table remains. Returns the errors of
    unreadable inputs."""
    unreadable: list[str] = []
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w",
        encoding="utf-8",
        newline="",
        dir=target.parent,
        prefix=f".{target.name}.",
        delete=False,
    ) as file:
        part = Path(file.name)
        try:
            writer = csv.writer(file)
            writer.writerow([printable(name) for name in table.header()])
            for start, batch in shown(items, batch_size):
                read = [readable(table.predictor, item, unreadable) for item in batch]
                made = iter(table.rows([item for item in read if item is not None], start))
                for name, item in zip(names[start:], read, strict=False):
                    cells = [""] * table.width if item is None else next(made)
                    writer.writerow([safe_cell(name), *cells])
        except BaseException:
            part.unlink()
            raise
    part.chmod(0o644)
    part.replace(target)
    return unreadable


def readable(predictor: "Predictor", item: Any, unreadable: list[str]) -> Any:
    """The input in memory; None if it is missing or cannot be read, and the error is added to
    `unreadable`."""
    try:
        if isinstance(item, UserError):
            raise item
        return predictor.reader.read(item)
    except UserError as error:
        unreadable.append(str(error))
        return None


def shown(items: list[Any], batch_size: int) -> Iterator[tuple[int, list[Any]]]:
    """Batches with the index of their first input; shows a progress bar in a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = ("predicting", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("", total=len(items))
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            yield start, batch
            bar.advance(task, len(batch))
