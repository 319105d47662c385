"""python -m recipes.predict run=RUN input=INPUT output=FILE.csv

Predict new pictures or texts with a finished run: a table with one row per input, in the order of
the inputs.

  run=RUN              folder of a run of train.py, or one of its checkpoints
  input=INPUT          pictures: a folder (searched recursively), one picture, or a txt (one per
                       line), csv, tsv, jsonl or parquet with paths, relative to that file
                       texts: a txt (one per line), csv, tsv, jsonl or parquet, or a folder of txt
                       files
                       Every line and row has a row in the table, also an empty one.
  output=FILE.csv      columns input, label, confidence, and METHOD/NAME for what a method says
                       about each input; cells of unreadable inputs are empty.
                       A cell that a spreadsheet would take for a formula (= + - @) begins with '
  column=NAME          of a csv, tsv, jsonl or parquet; default: text, for pictures path, or the
                       only column
  probabilities=true   also a column per class
  embeddings=true      the embedding instead of labels: columns e0, e1 …
  which=last           last | best checkpoint of the folder
  batch_size=64        inputs per batch
  device=auto          auto | cpu | cuda …
  overwrite=true       replace FILE.csv if it exists
  trust=true           the run may call code of other packages (your own methods), which is listed

Exit code: 0; 2 for a mistake in the command; 3 where inputs were unreadable (their rows are kept,
with empty cells).

Example
  python -m recipes.predict run=outputs/fixmatch/2026-01-31_12-00-00 input=pictures \\
      output=labels.csv
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from datamodules.names import expanded
from foundation.errors import UserError, nearest, raise_all
from foundation.exit_codes import UNREADABLE, for_terminal
from foundation.fast_imports import gc_paused
from recipes.config.options import run_command

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
) -> int:
    """Write the table; returns the exit code. Raises UserError for mistakes of the user; unreadable
    inputs are reported, their cells are empty."""
    started = time.monotonic()
    target = expanded(output)
    source = expanded(input)
    check_output(target, overwrite)
    if probabilities and embeddings:
        replaces = "replaces labels and probabilities; remove probabilities=true"
        raise UserError(f"embeddings=true: {replaces}")
    if not source.exists():
        raise UserError(f"input: there is no '{input}'{similar_name(source)}")
    with gc_paused():
        from recipes.predict.listing import list_inputs
        from recipes.predict.loading import load
        from recipes.predict.table import Predictions, write_table

    predictor = load(run, which, device, trust)
    if not (predictor.speaks or embeddings):
        raise UserError(
            "run: its heads cannot predict (untrained, or of other classes than the data): add "
            "embeddings=true"
        )
    names, items = list_inputs(source, predictor.kind, column, predictor.suffixes)
    table = Predictions(predictor, probabilities, embeddings)
    unreadable = write_table(target, table, names, items, batch_size)
    name_unreadable(unreadable)
    left = f", {len(unreadable)} unreadable" if unreadable else ""
    seconds = time.monotonic() - started
    done = f"{len(items) - len(unreadable)} inputs predicted{left} in {seconds:.1f} s: {target}"
    print(for_terminal(done))
    return UNREADABLE if unreadable else 0


def name_unreadable(lines: Sequence[str]) -> None:
    """A line for each input that could not be read; after the first ones their number."""
    for line in lines[:SHOWN_ERRORS]:
        print(f"unreadable: {for_terminal(line)}", file=sys.stderr)
    if len(lines) > SHOWN_ERRORS:
        print(f"unreadable: {len(lines) - SHOWN_ERRORS} more", file=sys.stderr)


def similar_name(path: Path) -> str:
    """A hint at a file of a similar name, or an empty string."""
    if not path.parent.is_dir():
        return ""
    near = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    return f"; {near}" if near.startswith("did you mean") else ""


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
    from recipes.checkpointing.files import run_dir_errors

    raise_all([error.about("output") for error in run_dir_errors(str(target.parent), reading=True)])


def main(argv: list[str]) -> int:
    return run_command(argv, predict, __doc__ or "")


if __name__ == "__main__":
    # users' own methods are imported from the working directory: python -m adds it to the path
    sys.exit(main(sys.argv[1:]))
