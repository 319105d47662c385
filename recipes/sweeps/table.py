"""The table of a sweep: a row for each combination of the swept values other than the seed, mean
and spread over its runs, and what is not done with the reason."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from recipes.report.numbers import clock, is_seconds, is_share, value_text
from recipes.sweeps.record import NOT_OF_THE_JOB, Job

SEED = "seed"
UNTOLD = {
    "waiting": "not begun",
    "running": "its end is not known; killed with its starter, or still at it elsewhere",
}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation √(Σ(x − x̄)² / (n − 1)) of n runs; no deviation of a
    single one."""

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


def spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass
class Row:
    """setting: the swept values, by key; a key that a job does not name is empty. jobs: by
    number."""

    setting: dict[str, str]
    jobs: dict[int, Job]
    figures: dict[str, Spread]

    @property
    def runs(self) -> str:
        """How many runs the means are of: `3`, or `2 of 3`."""
        done = sum(job.state == "done" for job in self.jobs.values())
        return str(done) if done == len(self.jobs) else f"{done} of {len(self.jobs)}"

    def misses(self) -> list[str]:
        """A line for each job that is not done."""
        return [miss(number, job) for number, job in self.jobs.items() if job.state != "done"]


def miss(number: int, job: Job) -> str:
    """One job that is not done: its number, its seed, how it ended and why."""
    seed = job.setting().get(SEED)
    named = f"job {number}" + (f", seed {seed}" if seed is not None else "")
    reason = UNTOLD.get(job.state, job.reason)
    joined = " " if job.state in ("killed", "pruned") else ": "
    return f"{named}: {job.state}{joined}{reason}"


@dataclass
class Table:
    """rows: best first. swept: keys. metrics: of the console, all others are in the files. monitor,
    direction: what makes a row the best."""

    swept: list[str]
    metrics: list[str]
    monitor: str
    direction: str
    rows: list[Row]
    jobs: dict[int, Job]

    @property
    def best(self) -> Row | None:
        return self.rows[0] if self.rows and self.monitor in self.rows[0].figures else None

    def all_metrics(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.figures))


def make_table(jobs: dict[int, Job]) -> Table:
    settings = {number: job.setting() for number, job in jobs.items()}
    swept = swept_keys(settings.values())
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, setting in settings.items():
        groups.setdefault(tuple(setting.get(key, "") for key in swept), []).append(number)
    rows = []
    for values, numbers in groups.items():
        of_row = {number: jobs[number] for number in numbers}
        rows.append(Row(dict(zip(swept, values, strict=True)), of_row, figures(of_row.values())))
    monitor = most([job.metric or job.monitor for job in jobs.values()])
    said = most([job.direction for job in jobs.values()])
    direction = said or ("minimize" if monitor.endswith("loss") else "maximize")
    sign = 1 if direction == "minimize" else -1
    rows.sort(
        key=lambda row: sign * row.figures[monitor].mean if monitor in row.figures else float("inf")
    )
    twin = "test/" + monitor.partition("/")[2]
    found = {name for row in rows for name in row.figures}
    shown = [name for name in dict.fromkeys((monitor, twin, "train_seconds")) if name in found]
    return Table(swept, shown, monitor, direction, rows, jobs)


def swept_keys(settings: Iterable[dict[str, str]]) -> list[str]:
    """Keys whose values differ between jobs, the seed and what is no part of a job left out."""
    settings = list(settings)
    keys = dict.fromkeys(key for setting in settings for key in setting)
    varied = [key for key in keys if len({setting.get(key) for setting in settings}) > 1]
    return [key for key in varied if key not in (SEED, *NOT_OF_THE_JOB)]


def figures(jobs: Iterable[Job]) -> dict[str, Spread]:
    """Every metric over the finished runs that have it. A run without a number, as after NaN,
    counts for none."""
    values: dict[str, list[float]] = {}
    for job in jobs:
        for name, value in job.metrics.items() if job.state == "done" else ():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: spread(found) for name, found in values.items()}


def most(names: Sequence[str]) -> str:
    """The most frequent one that is not empty."""
    given = [name for name in names if name]
    return max(dict.fromkeys(given), key=given.count) if given else ""


def brief(text: str) -> str:
    """A swept value for people: what a search drew has more digits than anybody reads."""
    try:
        return f"{float(text):.5g}" if len(text) > 8 else text
    except ValueError:
        return text


# -- the files -------------------------------------------------------------------------------------
def rows_csv(table: Table) -> str:
    """A line a row: the swept values, runs, mean and standard deviation of every metric, what is
    not done."""
    names = table.all_metrics()
    header = [
        *table.swept,
        "runs",
        "asked",
        *(f"{name} {part}" for name in names for part in ("mean", "std")),
    ]
    lines: list[list[Any]] = [[*header, "not done"]]
    for row in table.rows:
        done = sum(job.state == "done" for job in row.jobs.values())
        cells: list[Any] = [row.setting[key] for key in table.swept] + [done, len(row.jobs)]
        for name in names:
            found = row.figures.get(name)
            cells += [found.mean, "" if found.std is None else found.std] if found else ["", ""]
        lines.append([*cells, "; ".join(row.misses())])
    return text_of(lines)


def jobs_csv(table: Table) -> str:
    """A line a job: its number, overrides, how it ended, and its metrics."""
    names = list(dict.fromkeys(name for job in table.jobs.values() for name in job.metrics))
    lines: list[list[Any]] = [
        ["job", *table.swept, SEED, "state", "reason", "attempts", "seconds", *names]
    ]
    for number, job in table.jobs.items():
        setting = job.setting()
        said = [setting.get(key, "") for key in (*table.swept, SEED)]
        values = ["" if job.metrics.get(name) is None else job.metrics[name] for name in names]
        lines.append(
            [number, *said, job.state, job.reason, job.attempts, round(job.seconds, 3), *values]
        )
    return text_of(lines)


def text_of(lines: list[list[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def plain(table: Table) -> dict[str, Any]:
    """The table for JSON."""
    rows = [
        {
            "setting": row.setting,
            "jobs": list(row.jobs),
            "runs": sum(job.state == "done" for job in row.jobs.values()),
            "figures": {
                name: {"mean": f.mean, "std": f.std, "n": f.n} for name, f in row.figures.items()
            },
            "not_done": row.misses(),
        }
        for row in table.rows
    ]
    jobs = {
        number: {
            "overrides": job.overrides,
            "state": job.state,
            "reason": job.reason,
            "attempts": job.attempts,
            "seconds": job.seconds,
            "metrics": job.metrics,
        }
        for number, job in table.jobs.items()
    }
    return {
        "monitor": table.monitor,
        "direction": table.direction,
        "swept": table.swept,
        "rows": rows,
        "jobs": jobs,
    }


def counts(jobs: dict[int, Job]) -> str:
    """`12 jobs: 10 done, 1 failed, 1 killed, 3 min 20 s of computing`."""
    states = [job.state for job in jobs.values()]
    parts = [
        f"{states.count(state)} {state}" for state in dict.fromkeys(["done", *sorted(set(states))])
    ]
    return (
        f"{len(jobs)} jobs: {', '.join(parts)}, {clock(sum(job.seconds for job in jobs.values()))} "
        "of computing"
    )
