"""metrics.csv and metrics.json, written by every run."""

import csv
import io
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.errors import UserError, first_line
from foundation.files import os_reason, write_json, write_text

logger = logging.getLogger(__name__)

EXPECTED = "expected a metrics.csv, which begins with 'step'"


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats, without the `epoch` that Lightning adds: streams are infinite, so it is
    always 0."""
    return {name: float(value) for name, value in metrics.items() if name not in ("epoch", "step")}


class MetricsFiles(Logger):
    """Writes one row per step to `run_dir/metrics.csv` and final values to `run_dir/metrics.json`.

    The CSV is wide: `step`, then a column per name in order of first appearance, empty where a step
    has no value. A row is on disk when `log_metrics` returns. Values logged later for the same step
    are merged into its row. A new name rewrites the file atomically with a longer header.
    `history` has the same rows in memory.

    resume_step: None: a new run; an existing metrics.csv with rows is an error, it is never
        overwritten. n: a run resumed after n steps; later rows are dropped, because the resumed run
        logs them again.
    history: the rows up to that step as the checkpoint has them; None: read from metrics.csv. A
        file that lacks some of them is written anew, which is printed.

    Raises `UserError` for the file of another run, a file in another format and a folder that is
    not writable.
    """

    def __init__(
        self,
        run_dir: str | Path,
        resume_step: int | None = None,
        history: Sequence[Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        self.run_dir = Path(run_dir)
        self.csv_path = Path(run_dir) / "metrics.csv"
        self.history: list[dict[str, Any]] = []
        self.latest: dict[str, float] = {}
        self._columns: list[str] = ["step"]
        self._offset = 0  # of the last row in the file, bytes
        self._stale = True  # the file lacks rows of the history
        self._lacking = False  # rows of the checkpoint
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        if history is not None:
            self._take_over(history)
        elif self.csv_path.is_file():
            self._restore(resume_step)

    def _restore(self, resume_step: int | None) -> None:
        rows = read_rows(self.csv_path)
        if rows and resume_step is None:
            problem = f"holds the metrics of another run ({len(rows)} rows in metrics.csv)"
            remedy = "expected a new folder, or a checkpoint to resume from"
            raise UserError(f"run_dir={self.run_dir}", problem, remedy)
        for row in rows:
            step = row.pop("step")
            if step <= (resume_step or 0):
                self._merge(step, row)

    def _take_over(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Resume with the rows of the checkpoint."""
        try:
            found = {row["step"]: row for row in read_rows(self.csv_path)}
        except (UserError, OSError):
            found = {}
        for row in history:
            # repr, since NaN differs from itself
            cells = {name: repr(value) for name, value in found.get(row["step"], {}).items()}
            if not cells.items() >= {name: repr(value) for name, value in row.items()}.items():
                self._lacking = True
            self._merge(row["step"], {name: v for name, v in row.items() if name != "step"})
        if self._lacking:
            logger.warning(
                "resume: '%s' is %s; it is written anew from the checkpoint",
                self.csv_path,
                "damaged" if self.csv_path.is_file() else "gone",
            )

    def start(self, config: Mapping[str, Any], plan: str) -> None:
        """Write the file anew if rows of the checkpoint are missing in it."""
        if self._lacking:
            self._rewrite()

    # -- Lightning's interface ---------------------------------------------------------------------
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # type: ignore[override]
        """Add values to the row of `step` (None: the last row) and write it to disk."""
        values = scalars(metrics)
        if step is None:
            step = self.history[-1]["step"] if self.history else 0
        if not values:
            return
        last = self.history[-1]["step"] if self.history else -1
        grown = any(name not in self._columns for name in values)
        self._merge(int(step), values)
        if self._stale or grown or step < last:
            self._rewrite()
        else:
            self._write_last(append=step > last)

    @rank_zero_only
    def finish(self, final: Mapping[str, Any]) -> None:
        """Write `metrics.json`: final values by logged name; NaN as null."""
        write_json(self.run_dir / "metrics.json", dict(final))

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Does nothing: the run writes config.yaml."""

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.run_dir)

    @property
    def root_dir(self) -> str:
        return str(self.run_dir)

    @property
    def log_dir(self) -> str:
        return str(self.run_dir)

    # -- the file ----------------------------------------------------------------------------------
    def _merge(self, step: int, values: Mapping[str, float]) -> None:
        self._columns += [name for name in values if name not in self._columns]
        self.latest.update(values)
        self._row(step).update(values)

    def _row(self, step: int) -> dict[str, Any]:
        """The row of `step` in the history, added where there is none."""
        in_order = not self.history or step > self.history[-1]["step"]
        if not in_order:
            for row in reversed(self.history):
                if row["step"] == step:
                    return row
        row = {"step": step}
        self.history.append(row)
        if not in_order:
            self.history.sort(key=lambda entry: entry["step"])
        return row

    def _line(self, row: Mapping[str, Any]) -> str:
        buffer = io.StringIO()
        # repr is the shortest text that parses to the same float
        cells = [repr(row[name]) if name in row else "" for name in self._columns]
        csv.writer(buffer, lineterminator="\n").writerow(cells)
        return buffer.getvalue()

    def _rewrite(self) -> None:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(self._columns)
        lines = [header.getvalue(), *map(self._line, self.history)]
        write_text(self.csv_path, "".join(lines))
        self._offset = sum(len(line.encode()) for line in lines[:-1])
        self._stale = False

    def _write_last(self, append: bool) -> None:
        try:
            with self.csv_path.open("r+b") as file:
                self._offset = file.seek(0, io.SEEK_END) if append else file.seek(self._offset)
                file.write(self._line(self.history[-1]).encode())
                file.truncate()
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            raise UserError(str(self.csv_path), problem, "expected the file of this run") from error


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv, {"step": int, name: float}, without empty cells and without a
    last line truncated by a crash. Raises `UserError` for a file in another format."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(str(path), f"is no table ({first_line(error)})", EXPECTED) from error
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({os_reason(error)})", EXPECTED) from error
    if not lines:
        return []
    header = lines[0]
    rows = []
    if header[:1] != ["step"]:
        problem = f"first column is '{''.join(header[:1])}'"
        raise UserError(str(path), problem, EXPECTED)
    for number, cells in enumerate(lines[1:], start=2):
        try:
            values = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
            rows.append({**values, "step": int(values["step"])})
        except (ValueError, KeyError) as error:
            if number < len(lines):
                problem = f"line {number} does not fit its header"
                remedy = f"expected {len(header)} numbers"
                raise UserError(str(path), problem, remedy) from error
    return rows
