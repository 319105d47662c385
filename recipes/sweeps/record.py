"""The record of one job: `job.json` in its folder, written when the sweep assigns a number and
updated until the job ends."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foundation.errors import UserError
from foundation.files import os_reason, write_json
from recipes.checkpointing.folder_files import kind_of, misfit
from recipes.config.keys import key_of, value_of
from recipes.config.renamed import renamed_override
from recipes.config.stage_keys import stage_keys_from_hydra

NAME = "job.json"
# States: waiting (has a number), running (started, no end recorded), stopped (Ctrl-C or SIGTERM),
# killed (by another signal), failed, pruned, done.
OVER = ("done", "pruned")  # not run again
NOT_OF_THE_JOB = ("run_dir", "resume", "accept_changes", "dry_run")  # do not change the result


@dataclass
class Job:
    """One job of a sweep.

    overrides: of the job's command.
    label: the swept overrides, for people.
    run_dir: folder of the run, by default that of the job.
    state: see above.
    reason: why the job is not done, one line.
    metrics: final metrics by name.
    monitor: name of the metric that judges the run.
    seconds: wall time of all attempts.
    attempts: number of starts.
    metric, direction: those of a search; empty for a grid.
    trial: arguments of `pruning.PruningCallback`; None: no pruning.
    """

    overrides: list[str]
    label: str = ""
    run_dir: str = ""
    state: str = "waiting"
    reason: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    monitor: str = ""
    seconds: float = 0.0
    attempts: int = 0
    metric: str = ""
    direction: str = ""
    trial: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def lost(self) -> bool:
        """Whether no end was recorded."""
        return self.state in ("waiting", "running")

    @property
    def value(self) -> float | None:
        """The monitored metric of a finished run."""
        return self.metrics.get(self.monitor) if self.state == "done" else None

    def setting(self) -> dict[str, str]:
        """Value of each override by key, as text."""
        overrides = [stage_keys_from_hydra(text) for text in self.overrides]
        return {key_of(text): value_of(text) for text in overrides}


def read_job(folder: Path) -> Job | None:
    """The job of a folder; None where there is none. Entries of another version are ignored.

    Raises `UserError` for a file that holds something else: the jobs of a sweep are numbered by
    these files, and what one of them has done must not be forgotten silently."""
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():
            raise damaged(path, f"is {kind_of(path)}")
        return TypeAdapter(Job).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        is_json = error.errors()[0]["type"] != "json_invalid"
        raise damaged(path, f"is {misfit(error) if is_json else 'not JSON'}") from error
    except OSError as error:
        raise damaged(path, f"cannot be read ({os_reason(error)})") from error


def damaged(path: Path, problem: str) -> UserError:
    remedy = f"move '{path.parent}' away and repeat the command, which runs its job again"
    return UserError("hydra.sweep.dir", f"'{path}' {problem}", f"expected a job's record: {remedy}")


def write_job(folder: Path, job: Job) -> None:
    write_json(folder / NAME, asdict(job))


def identity(overrides: Iterable[str]) -> frozenset[str]:
    """What distinguishes jobs: their overrides without order and `+`, by present names, without
    Hydra's own overrides."""
    current = [renamed_override(text)[0] for text in overrides]
    own = (text.lstrip("+") for text in current if key_of(text) not in NOT_OF_THE_JOB)
    return frozenset(text for text in own if not text.startswith("hydra"))


def jobs_of(sweep: Path) -> dict[int, Job]:
    """All jobs in a sweep's folder, by number."""
    jobs = {number: read_job(sweep / str(number)) for number in _numbers(sweep)}
    return {number: job for number, job in jobs.items() if job is not None}


def _numbers(sweep: Path) -> list[int]:
    return sorted(int(path.name) for path in sweep.glob("*") if path.name.isdigit())


def assign_numbers(sweep: Path, wanted: Sequence[Job]) -> list[int]:
    """Numbers of jobs: that of the same job in the folder, else the next free one."""
    known = jobs_of(sweep)
    by_identity = {identity(job.overrides): number for number, job in known.items()}
    free = max(_numbers(sweep), default=-1) + 1
    numbers = []
    for new in wanted:
        number = by_identity.setdefault(identity(new.overrides), free)
        free += number == free
        job = known.get(number, new)
        if not job.over:
            # the same job may have been written with key names of an earlier version
            job.overrides = new.overrides
            job.label = new.label
            job.trial = new.trial
            job.metric = new.metric
            job.direction = new.direction
            write_job(sweep / str(number), job)
        numbers.append(number)
    return numbers
