"""python -m recipes.predict run=RUN input=INPUT output=FILE.csv

Predict new pictures or texts with a finished run: a table with one row per input, in the order of
the inputs.

  run=RUN              folder of a run of train.py, or one of its checkpoints
  input=INPUT          pictures: a folder (searched recursively), one picture, or a txt (one per
                       line), csv, tsv or jsonl with paths, relative to that file
                       texts: a txt (one per line), csv, tsv or jsonl, or a folder of txt files
  output=FILE.csv      columns input, label, confidence; cells of unreadable inputs are empty
  column=NAME          of a csv, tsv or jsonl; default: text, for pictures path, or the only column
  probabilities=true   also a column per class
  embeddings=true      the embedding instead of labels: columns e0, e1 …
  which=last           last | best checkpoint of the folder
  batch_size=64        inputs per batch
  device=auto          auto | cpu | cuda …
  overwrite=true       replace FILE.csv if it exists
  trust=true           the run may call code of other packages (your own methods), which is listed

Example
  python -m recipes.predict run=outputs/fixmatch/2026-01-31_12-00-00 input=pictures \\
      output=labels.csv
"""

import csv
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foundation.errors import UserError, nearest, raise_all
from foundation.fast_imports import gc_paused
from recipes.config.options import run_command

if TYPE_CHECKING:
    from torch import Tensor

    from recipes.predict.predictor import Predictor

TABLES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
COLUMNS = {"text": ("text",), "image": ("path", "file", "image", "filename")}
SHOWN_ERRORS = 10  # unreadable inputs that are listed; the rest is counted


def predict(
    run: str,
    input: str,
    output: str,
    column: str | None = None,
    probabilities: bool = False,
    embeddings: bool = False,
    which: Literal["last", "best"] = "last",
    batch_size: Annotated[int, Field(ge=1)] = 64,
    device: str = "auto",
    overwrite: bool = False,
    trust: bool = False,
) -> None:
    """Write the table. Raises UserError for mistakes of the user; unreadable inputs are reported
    and skipped."""
    started = time.monotonic()
    target = Path(output).expanduser()
    check_output(target, overwrite)
    if probabilities and embeddings:
        raise UserError(
            "embeddings=true: replaces labels and probabilities; remove probabilities=true"
        )
    if not Path(input).expanduser().exists():
        raise UserError(f"input: there is no '{input}'{similar_name(Path(input).expanduser())}")
    with gc_paused():
        from recipes.predict.loading import load

    predictor = load(run, which, device, trust)
    if not (predictor.speaks or embeddings):
        raise UserError(
            "run: its heads cannot predict (untrained, or of other classes than the data): add "
            "embeddings=true"
        )
    names, items = list_inputs(Path(input).expanduser(), predictor.kind, column)
    table = Predictions(predictor, probabilities, embeddings)
    unreadable = write_table(target, table, names, items, batch_size)
    for line in unreadable[:SHOWN_ERRORS]:
        print(f"unreadable: {line}", file=sys.stderr)
    if len(unreadable) > SHOWN_ERRORS:
        print(f"unreadable: {len(unreadable) - SHOWN_ERRORS} more", file=sys.stderr)
    seconds = time.monotonic() - started
    left = f", {len(unreadable)} unreadable" if unreadable else ""
    print(f"{len(items) - len(unreadable)} inputs predicted{left} in {seconds:.1f} s: {target}")


# -- inputs ----------------------------------------------------------------------------------------
def list_inputs(path: Path, kind: str, column: str | None) -> tuple[list[str], list[Any]]:
    """(names for the column `input`, inputs of the run). Raises UserError if there are none."""
    suffix = path.suffix.lower()
    if column is not None and suffix not in TABLES:
        raise UserError(
            f"column: '{path}' has no columns; expected a csv, tsv or jsonl as input, or remove "
            "column"
        )
    if path.is_dir():
        names, items = from_folder(path, kind)
    elif suffix in TABLES:
        cells = from_table(path, kind, column)
        names = cells
        items = cells if kind == "text" else [placed(cell, path) for cell in cells]
    elif suffix == ".txt":
        names = [line.strip() for line in read_whole(path).splitlines() if line.strip()]
        items = names if kind == "text" else [placed(name, path) for name in names]
    elif kind == "image":
        names = [str(path)]
        items = [path]
    else:
        raise UserError(
            f"input: '{path}' is no list of texts; expected a txt, csv, tsv or jsonl, or a folder "
            "of txt files"
        )
    if not items:
        expected = "texts" if kind == "text" else "pictures"
        raise UserError(f"input: '{path}' has nothing to predict; expected {expected}")
    return names, items


def from_folder(folder: Path, kind: str) -> tuple[list[str], list[Any]]:
    from datamodules.sources.files import files_below
    from datamodules.sources.pictures import ENDINGS

    paths = files_below(folder, ENDINGS if kind == "image" else {".txt"})
    names = [str(path.relative_to(folder)) for path in paths]
    return names, paths if kind == "image" else [read_whole(path) for path in paths]


def from_table(path: Path, kind: str, column: str | None) -> list[str]:
    """The cells of the input column. Raises UserError if it is missing or ambiguous."""
    from datamodules.sources.tables import read_rows

    rows = [row for _, row in read_rows(path, TABLES[path.suffix.lower()])]
    header = list(rows[0]) if rows else []
    known = next((name for name in COLUMNS[kind] if name in header), None)
    wanted = column or known or (header[0] if len(header) == 1 else None)
    if wanted is None:
        raise UserError(
            f"column: '{path}' has several columns; choose one of {', '.join(header)}: column=NAME"
        )
    if rows and wanted not in header:
        raise UserError(f"column: '{path}' has no column '{wanted}'; {nearest(wanted, header)}")
    return [str(row.get(wanted, "")) for row in rows]


def placed(name: str, beside: Path) -> Path:
    """A path given in a file: relative to that file, or to the working directory."""
    inside = beside.parent / Path(name).expanduser()
    return inside if inside.exists() else Path(name).expanduser()


def read_whole(path: Path) -> str:
    from datamodules.sources.tables import read_text

    return read_text(path, "utf-8")


def similar_name(path: Path) -> str:
    """A hint at a file of a similar name, or an empty string."""
    if not path.parent.is_dir():
        return ""
    near = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    return f"; {near}" if near.startswith("did you mean") else ""


# -- the table -------------------------------------------------------------------------------------
class Predictions:
    """Header and cells of the output. With several tasks, columns are named `label/TASK` etc."""

    def __init__(self, predictor: "Predictor", probabilities: bool, embeddings: bool):
        self.predictor = predictor
        self.probabilities = probabilities
        self.embeddings = embeddings
        self.width = len(self.header()) - 1

    def header(self) -> list[str]:
        if self.embeddings:
            dimensions = self.predictor.predict([], "embeddings").shape[1]
            return ["input", *(f"e{i}" for i in range(dimensions))]
        names = ["input"]
        classes = self.predictor.classes
        for task, labels in classes.items():
            end = f"/{task}" if len(classes) > 1 else ""
            names += [f"label{end}", f"confidence{end}"]
            names += [f"p{end}/{label}" for label in labels] if self.probabilities else []
        return names

    def rows(self, items: list[Any], first: int) -> list[list[str]]:
        """The cells after `input`, one row per input."""
        returns: Any = "embeddings" if self.embeddings else "probabilities"
        found = self.predictor.predict(items, returns, batch_size=max(len(items), 1), first=first)
        if self.embeddings:
            return [[f"{value:.6g}" for value in row] for row in found.tolist()]
        by_task = found if isinstance(found, dict) else {next(iter(self.predictor.classes)): found}
        rows = []
        for i in range(len(items)):
            rows.append(self.cells({task: values[i] for task, values in by_task.items()}))
        return rows

    def cells(self, row: dict[str, "Tensor"]) -> list[str]:
        cells: list[str] = []
        for task, values in row.items():
            cells += [
                self.predictor.classes[task][int(values.argmax())],
                f"{float(values.max()):.6f}",
            ]
            cells += [f"{value:.6f}" for value in values.tolist()] if self.probabilities else []
        return cells


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
            writer.writerow(table.header())
            for start, batch in shown(items, batch_size):
                read = [readable(table.predictor, item, unreadable) for item in batch]
                made = iter(table.rows([item for item in read if item is not None], start))
                for name, item in zip(names[start:], read, strict=False):
                    cells = [""] * table.width if item is None else next(made)
                    writer.writerow([name, *cells])
        except BaseException:
            part.unlink()
            raise
    part.chmod(0o644)
    part.replace(target)
    return unreadable


def readable(predictor: "Predictor", item: Any, unreadable: list[str]) -> Any:
    """The input in memory; None if it cannot be read, and the error is added to `unreadable`."""
    try:
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


def check_output(target: Path, overwrite: bool) -> None:
    """Raises UserError if the table cannot be written, or would replace a file without
    overwrite."""
    if target.is_dir():
        raise UserError(
            f"output: '{target}' is a folder; name a file, {target / 'predictions.csv'}"
        )
    if target.exists() and not overwrite:
        raise UserError(
            f"output: '{target}' exists already; name another file, or add overwrite=true"
        )
    from recipes.runs.checkpoint_files import run_dir_errors

    raise_all([error.about("output") for error in run_dir_errors(str(target.parent), reading=True)])


def main(argv: list[str]) -> int:
    return run_command(argv, predict, __doc__ or "")


if __name__ == "__main__":
    # users' own methods are imported from the working directory: python -m adds it to the path
    sys.exit(main(sys.argv[1:]))
