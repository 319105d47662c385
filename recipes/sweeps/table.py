"""The table of a sweep: a row per combination of the swept values without the seed, mean and
standard deviation over its runs, and the jobs that are not done."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import mean, stdev
from typing import Any

from recipes.predict.table import safe_cell
from recipes.report.numbers import (
    clock,
    is_seconds,
    is_share,
    lower_is_better,
    tested,
    value_text,
)
from recipes.sweeps.record import NOT_OF_THE_JOB, Job

SEED = "seed"
NO_END = {
    "waiting": "not started",
    "running": "no end recorded; killed with its parent process, or still running elsewhere",
}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation √(Σ(x − x̄)² / (n − 1)) of n runs; std is None for one
    run."""

    mean: float
    std: float | None
    n: int

    def text(self, name: str) -> str:
        """`95.93 ± 0.41 %`, `0.1234 ± 0.0056`, `12 s`."""
        if self.std is None or is_seconds(name):
            return value_text(name, self.mean)
        if is_share(name):
            return f"{100 * self.mean:.2f} ± {100 * self.std:.2f} %"
        return f"{self.mean:.4g} ± {self.std:.2g}"

    def deviation_text(self, name: str) -> str:
        """`± 0.41 % over 3 runs`; empty for one run."""
        if self.std is None:
            return ""
        return f"± {value_text(name, self.std)} over {self.n} runs"


def spread(values: Sequence[float]) -> Spread:
    std = stdev(values) if len(values) > 1 else None
    return Spread(mean(values), std, len(values))


@dataclass
class Row:
    """The runs of one setting.

    setting: swept values by key; empty text for a key that the jobs do not set.
    jobs: by number.
    statistics: by metric.
    """

    setting: dict[str, str]
    jobs: dict[int, Job]
    statistics: dict[str, Spread]

    @property
    def runs(self) -> str:
        """Number of runs in the means: `3`, or `2 of 3`."""
        total = len(self.jobs)
        return str(total) if self.done == total else f"{self.done} of {total}"

    @property
    def done(self) -> int:
        return sum(job.state == "done" for job in self.jobs.values())

    def text(self, name: str) -> str:
        """Mean and deviation of a metric; a dash where no run has it."""
        return self.statistics[name].text(name) if name in self.statistics else "–"

    def not_done(self) -> list[str]:
        """A line for each job that is not done."""
        return [
            not_done_line(number, job) for number, job in self.jobs.items() if job.state != "done"
        ]


def not_done_line(number: int, job: Job) -> str:
    """A job that is not done: its number, its seed, how it ended and why."""
    seed = job.setting().get(SEED)
    name = f"job {number}" if seed is None else f"job {number}, seed {seed}"
    reason = NO_END.get(job.state, job.reason)
    # "killed by SIGKILL", "pruned at step 100", "failed: REASON"
    separator = " " if job.state in ("killed", "pruned") else ": "
    return f"{name}: {job.state}{separator}{reason}"


@dataclass
class SweepTable:
    """The results of a sweep.

    swept: keys with several values.
    metrics: shown in the console and in the page's table; the files have all.
    monitor, direction: the metric that orders the rows, and whether more is better.
    rows: best first.
    jobs: by number.
    """

    swept: list[str]
    metrics: list[str]
    monitor: str
    direction: str
    rows: list[Row]
    jobs: dict[int, Job]

    @property
    def best(self) -> Row | None:
        if self.rows and self.monitor in self.rows[0].statistics:
            return self.rows[0]
        return None

    def all_metrics(self) -> list[str]:
        return union(row.statistics for row in self.rows)


def make_table(jobs: dict[int, Job]) -> SweepTable:
    """Group the jobs by setting and order the groups by the monitored metric."""
    swept = swept_keys([job.setting() for job in jobs.values()])
    rows = make_rows(jobs, swept)
    monitor = most_frequent([job.metric or job.monitor for job in jobs.values()])
    direction = most_frequent([job.direction for job in jobs.values()])
    if not direction:
        direction = "minimize" if lower_is_better(monitor) else "maximize"
    sign = 1 if direction == "minimize" else -1

    def rank(row: Row) -> float:
        if monitor not in row.statistics:
            return float("inf")
        return sign * row.statistics[monitor].mean

    rows.sort(key=rank)
    columns = dict.fromkeys((monitor, tested(monitor), "train_seconds"))
    present = union(row.statistics for row in rows)
    shown = [name for name in columns if name in present]
    return SweepTable(swept, shown, monitor, direction, rows, jobs)


def make_rows(jobs: dict[int, Job], swept: list[str]) -> list[Row]:
    """A row for each combination of the swept values, in order of the jobs."""
    groups: dict[tuple[str, ...], dict[int, Job]] = {}
    for number, job in jobs.items():
        setting = job.setting()
        values = tuple(setting.get(key, "") for key in swept)
        groups.setdefault(values, {})[number] = job
    rows = []
    for values, of_row in groups.items():
        setting = dict(zip(swept, values, strict=True))
        rows.append(Row(setting, of_row, statistics(of_row.values())))
    return rows


def union(names: Iterable[Iterable[str]]) -> list[str]:
    """All names, each once, in order of first appearance."""
    return list(dict.fromkeys(chain.from_iterable(names)))


def swept_keys(settings: Sequence[dict[str, str]]) -> list[str]:
    """Keys whose values differ between jobs, without the seed and what is not part of a job."""
    swept = []
    for key in union(settings):
        values = {setting.get(key) for setting in settings}
        if len(values) > 1 and key not in (SEED, *NOT_OF_THE_JOB):
            swept.append(key)
    return swept


def statistics(jobs: Iterable[Job]) -> dict[str, Spread]:
    """Mean and deviation of every metric over the finished runs, without runs whose value is
    missing or NaN."""
    values: dict[str, list[float]] = {}
    for job in jobs:
        if job.state != "done":
            continue
        for name, value in job.metrics.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: spread(of_metric) for name, of_metric in values.items()}


def most_frequent(names: Sequence[str]) -> str:
    """The most frequent name that is not empty; the first of several."""
    nonempty = [name for name in names if name]
    return max(dict.fromkeys(nonempty), key=nonempty.count) if nonempty else ""


def brief(text: str) -> str:
    """A swept value with at most five digits: a search samples all digits of a float."""
    try:
        return f"{float(text):.5g}" if len(text) > 8 else text
    except ValueError:
        return text


# -- the files -------------------------------------------------------------------------------------
def rows_csv(table: SweepTable) -> str:
    """A line per row: swept values, runs, mean and standard deviation of every metric, and the jobs
    that are not done."""
    names = table.all_metrics()
    header = [*table.swept, "runs", "asked"]
    for name in names:
        header += [f"{name} mean", f"{name} std"]
    lines: list[list[Any]] = [[*header, "not done"]]
    for row in table.rows:
        cells: list[Any] = [row.setting[key] for key in table.swept]
        cells += [row.done, len(row.jobs)]
        for name in names:
            metric = row.statistics.get(name)
            # csv writes None as an empty cell
            cells += [metric.mean, metric.std] if metric else [None, None]
        lines.append([*cells, "; ".join(row.not_done())])
    return csv_text(lines)


def jobs_csv(table: SweepTable) -> str:
    """A line per job: its number, overrides, how it ended, and its metrics."""
    names = union(job.metrics for job in table.jobs.values())
    lines: list[list[Any]] = [
        ["job", *table.swept, SEED, "state", "reason", "attempts", "seconds", *names]
    ]
    for number, job in table.jobs.items():
        setting = job.setting()
        swept = [setting.get(key, "") for key in (*table.swept, SEED)]
        metrics = [job.metrics.get(name) for name in names]
        seconds = round(job.seconds, 3)
        lines.append([number, *swept, job.state, job.reason, job.attempts, seconds, *metrics])
    return csv_text(lines)


def csv_text(lines: list[list[Any]]) -> str:
    buffer = io.StringIO()
    for line in lines:
        cells = [safe_cell(cell) if isinstance(cell, str) else cell for cell in line]
        csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def as_json(table: SweepTable) -> dict[str, Any]:
    """The table in JSON's types."""
    return {
        "monitor": table.monitor,
        "direction": table.direction,
        "swept": table.swept,
        "rows": [row_as_json(row) for row in table.rows],
        "jobs": {number: job_as_json(job) for number, job in table.jobs.items()},
    }


def row_as_json(row: Row) -> dict[str, Any]:
    return {
        "setting": row.setting,
        "jobs": list(row.jobs),
        "runs": row.done,
        "figures": {name: asdict(metric) for name, metric in row.statistics.items()},
        "not_done": row.not_done(),
    }


def job_as_json(job: Job) -> dict[str, Any]:
    return {
        "overrides": job.overrides,
        "state": job.state,
        "reason": job.reason,
        "attempts": job.attempts,
        "seconds": job.seconds,
        "metrics": job.metrics,
    }


def counts(jobs: dict[int, Job]) -> str:
    """`12 jobs: 10 done, 1 failed, 1 killed, 3 min 20 s of computing`."""
    states = [job.state for job in jobs.values()]
    shown = dict.fromkeys(["done", *sorted(set(states))])
    parts = [f"{states.count(state)} {state}" for state in shown]
    seconds = sum(job.seconds for job in jobs.values())
    return f"{len(jobs)} jobs: {', '.join(parts)}, {clock(seconds)} of computing"
