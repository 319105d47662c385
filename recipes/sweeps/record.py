"""What is known of one job: `job.json` in its folder, from the moment the sweep numbers it until it
ended."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from foundation.files import write_json
from recipes.config.keys import key_of, value_of
from recipes.config.renamed import renamed_override
from recipes.config.stage_keys import stage_keys_from_hydra

NAME = "job.json"
# waiting: numbered; running: started, and not heard of since; stopped: by Ctrl-C; the rest say
# themselves
OVER = ("done", "pruned")  # never run again
NOT_OF_THE_JOB = ("run_dir", "resume", "accept_changes", "dry_run")  # where and how, not what


@dataclass
class Job:
    """overrides: the command of the job. label: the swept part of it. run_dir: where the run is, as
    a rule the job's own folder. reason: one line where it is not done. metrics: final ones.
    monitor: which of them judges the run. seconds: of all attempts. metric, direction: of a search,
        empty else. trial: arguments of `pruning.Watch`."""

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
        """Whether nobody noted an end."""
        return self.state in ("waiting", "running")

    @property
    def value(self) -> float | None:
        """The monitored metric of a finished run."""
        return self.metrics.get(self.monitor) if self.state == "done" else None

    def setting(self) -> dict[str, str]:
        """Key -> value of all overrides, as text."""
        overrides = [stage_keys_from_hydra(text) for text in self.overrides]
        return {key_of(text): value_of(text) for text in overrides}


def read(folder: Path) -> Job | None:
    """The job of a folder; None where there is none. Unknown entries are those of another version,
    and left out."""
    try:
        plain = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    known = {entry.name for entry in fields(Job)}
    return Job(**{name: value for name, value in plain.items() if name in known})


def write(folder: Path, job: Job) -> None:
    write_json(folder / NAME, asdict(job))


def identity(overrides: Iterable[str]) -> frozenset[str]:
    """What tells two jobs apart: their overrides, whatever the order and wherever they are written,
    added or not, by today's names; Hydra's own say how a job is run, not what it is."""
    current = [renamed_override(text)[0] for text in overrides]
    own = (text.lstrip("+") for text in current if key_of(text) not in NOT_OF_THE_JOB)
    return frozenset(text for text in own if not text.startswith("hydra"))


def jobs_of(sweep: Path) -> dict[int, Job]:
    """All jobs of a sweep's folder by their number."""
    folders = (p for p in sweep.glob("*") if p.name.isdigit()) if sweep.is_dir() else ()
    found = {int(folder.name): read(folder) for folder in folders}
    return {number: job for number, job in sorted(found.items()) if job is not None}


def enlist(sweep: Path, wanted: Sequence[Job]) -> list[int]:
    """Numbers of jobs: that of the folder where the same job was asked for before, else the next
    free one."""
    known = jobs_of(sweep)
    numbers = {identity(job.overrides): number for number, job in known.items()}
    taken = [int(p.name) for p in sweep.glob("*") if p.name.isdigit()] if sweep.is_dir() else []
    free = max(taken, default=-1) + 1
    found = []
    for asked in wanted:
        number = numbers.setdefault(identity(asked.overrides), free)
        free += number == free
        job = known.get(number)
        if job is None or not job.over:
            job = job or asked
            # the same job may be spelled otherwise: by names of an earlier version
            job.overrides = asked.overrides
            job.label, job.trial = asked.label, asked.trial
            job.metric, job.direction = asked.metric, asked.direction
            write(sweep / str(number), job)
        found.append(number)
    return found
