"""metrics.csv and metrics.json: the numbers of a run that need no service to be read. This logger
always runs."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.errors import UserError
from foundation.files import write_json, write_text


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as plain floats, without the epoch that Lightning adds: our streams are infinite, it
    would stay 0."""
    return {name: float(value) for name, value in metrics.items() if name not in ("epoch", "step")}


class MetricsFiles(Logger):
    """One row a step in `run_dir/metrics.csv`, the same rows in `history`, final values in
    `run_dir/metrics.json`.

    The CSV is wide: `step`, then a column for each name in order of first appearance, empty where a
    step has no value. A row is on disk when `log_metrics` returns. Values logged twice for a step
    are merged into its row, the later one wins; new names rewrite the file atomically with the
    grown header.

    resume_step: None for a new run: an existing metrics.csv with rows is refused, never
        overwritten. A number n for a run resumed after n steps: rows of later steps, which the
        resumed run will log again, are dropped.

    Raises `UserError` for a file of another run, a file that is no metrics.csv and a folder that
    cannot be written.
    """

    def __init__(self, run_dir: str | Path, resume_step: int | None = None):
        super().__init__()
        self.run_dir = Path(run_dir)
        self.csv_path = Path(run_dir) / "metrics.csv"
        self.history: list[dict[str, Any]] = []
        self.latest: dict[str, float] = {}
        self._columns: list[str] = ["step"]
        self._offset = 0  # where the last row begins in the file
        self._stale = True  # the file does not hold the history yet
        if getattr(rank_zero_only, "rank", 0) == 0 and self.csv_path.is_file():
            self._restore(resume_step)

    def _restore(self, resume_step: int | None) -> None:
        rows = read_rows(self.csv_path)
        if rows and resume_step is None:
            raise UserError(
                f"run_dir={self.run_dir}: holds the metrics of another run ({len(rows)} rows in "
                "metrics.csv); "
                "expected a new folder, or a checkpoint to resume from"
            )
        for row in rows:
            if row["step"] <= (resume_step or 0):
                self._merge(
                    row["step"], {name: value for name, value in row.items() if name != "step"}
                )

    # -- what Lightning and the engine call --------------------------------------------------------
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:  # type: ignore[override]
        """Add values to the row of `step` (default: the last row's), on disk at once."""
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
        """Write `metrics.json`: final values under the names logged, `train_seconds` among them;
        NaN as null."""
        write_json(self.run_dir / "metrics.json", dict(final))

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the run's config.yaml is the engine's."""

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
        if self.history and step <= self.history[-1]["step"]:
            row = next((row for row in reversed(self.history) if row["step"] == step), None)
            if row is None:
                row = {"step": step}
                self.history.append(row)
                self.history.sort(key=lambda entry: entry["step"])
        else:
            row = {"step": step}
            self.history.append(row)
        row.update(values)

    def _line(self, row: Mapping[str, Any]) -> str:
        buffer = io.StringIO()
        # repr is the shortest text that reads back as the same float
        csv.writer(buffer, lineterminator="\n").writerow(
            repr(row[name]) if name in row else "" for name in self._columns
        )
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
            raise UserError(
                f"{self.csv_path}: cannot be written ({error.strerror}); expected the file of this "
                "run"
            ) from error


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv, {"step": int, name: float}, empty cells left out.

    A last line cut off by a crash is left out. Raises `UserError` where the file is no metrics.csv.
    """
    with Path(path).open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    if not lines:
        return []
    header = lines[0]
    rows = []
    if header[:1] != ["step"]:
        raise UserError(
            f"{path}: first column is '{''.join(header[:1])}'; expected a metrics.csv, which "
            "begins with 'step'"
        )
    for number, cells in enumerate(lines[1:], start=2):
        try:
            values = {name: float(cell) for name, cell in zip(header, cells, strict=True) if cell}
            rows.append({**values, "step": int(values["step"])})
        except (ValueError, KeyError) as error:
            if number < len(lines):
                raise UserError(
                    f"{path}: line {number} does not fit its header; expected {len(header)} numbers"
                ) from error
    return rows
