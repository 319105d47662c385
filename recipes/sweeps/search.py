"""A search by Optuna's ask and tell: trials in a storage, their runs by Hydra's launcher, in
folders like all runs.

The storage holds text and numbers alone; samplers that pickle themselves into it are not offered.
It is opened with what the command says, so that the same command goes on with the search: trials
that a killed search left open are run to their end, those that failed are tried again, and
`n_trials` counts all that have ended."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foundation.errors import UserError, first_line
from recipes.sweeps.grid import RouxSweeper
from recipes.sweeps.record import Job, jobs_of

if TYPE_CHECKING:
    import optuna

    from recipes.sweeps.space import Space

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "qmc": "QMCSampler", "gp": "GPSampler"}
PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
}
INSTALL = "hydra/sweeper=roux_optuna: Optuna is not installed; pip install 'roux[sweep]'"


class OptunaSweeper(RouxSweeper):
    """A search by Optuna over intervals, ranges and choices, `hydra/sweeper=roux_optuna` (Akiba et
    al., Optuna, KDD 2019, arXiv 1907.10902).

    metric: metric searched for; null: the monitor of the run.
    direction: `maximize` or `minimize`; null: minimize a loss, maximize all else.
    n_trials: completed trials, earlier invocations included, at least 1; 20.
    n_jobs: trials given to the launcher at once, at least 1; 1; more need a launcher of several
        processes.
    sampler: `tpe`, `random`, `qmc` or `gp`.
    sampler_seed: seed of the sampler, at least 0; 0.
    sampler_options: arguments of the sampler's class, e.g. {n_startup_trials: 5}; null: none.
    pruner: `median`, `percentile`, `halving`, `hyperband` or `none`; ends runs that validate worse
        than others.
    pruner_options: arguments of the pruner's class, e.g. {n_startup_trials: 3, n_warmup_steps:
        100}; null: none.
    storage: sqlite:///FILE or the path of a journal; null: optuna.journal in the sweep's folder.
    study: name of the study in the storage.
    """

    def __init__(
        self,
        metric: str | None = None,
        direction: Literal["minimize", "maximize"] | None = None,
        n_trials: Annotated[int, Field(ge=1)] = 20,
        n_jobs: Annotated[int, Field(ge=1)] = 1,
        sampler: Literal["tpe", "random", "qmc", "gp"] = "tpe",
        sampler_seed: Annotated[int, Field(ge=0)] = 0,
        sampler_options: dict[str, Any] | None = None,
        pruner: Literal["none", "median", "percentile", "halving", "hyperband"] = "none",
        pruner_options: dict[str, Any] | None = None,
        storage: str | None = None,
        study: str = "roux",
    ):
        self.metric = metric or "val/accuracy"
        by_name: Literal["minimize", "maximize"] = (
            "minimize" if self.metric.endswith("loss") else "maximize"
        )
        self.direction = direction or by_name
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.sampler = sampler
        self.sampler_seed = sampler_seed
        self.sampler_options = dict(sampler_options or {})
        self.pruner = pruner
        self.pruner_options = dict(pruner_options or {})
        self.storage = storage
        self.study_name = study

    def sweep(self, arguments: list[str]) -> Any:
        from recipes.sweeps.space import read_space

        space = read_space(self.parse(arguments))
        if self.dry:
            raise UserError(
                "dry_run=true: what a search will run is not known; look at one run, without -m"
            )
        if self.pruner != "none":
            self.check_pruning(space)
        study = self.open()
        waiting = left_open(study, space)
        for _ in range(0, self.n_trials, self.n_jobs):
            missing = self.n_trials - ended(study)
            if missing <= 0 or not self.batch(study, space, waiting, min(self.n_jobs, missing)):
                break
        return study

    def batch(
        self, study: "optuna.Study", space: "Space", waiting: "list[optuna.Trial]", size: int
    ) -> bool:
        """Ask for trials, run their jobs, tell how they went. False where a run has no end yet."""
        trials = [waiting.pop(0) if waiting else study.ask(space.searched) for _ in range(size)]
        wanted = [
            replace(job, metric=self.metric, direction=self.direction, trial=self.watch(trial))
            for trial in trials
            for job in space.jobs(trial.params)
        ]
        numbers = self.run(wanted)
        seeds = len(space.seeds)
        known = jobs_of(self.folder)
        runs = [[known[n] for n in numbers[i * seeds : (i + 1) * seeds]] for i in range(size)]
        ends = [tell(study, trial, jobs) for trial, jobs in zip(trials, runs, strict=True)]
        return all(ends)

    def watch(self, trial: "optuna.Trial") -> dict[str, Any] | None:
        """What a run needs to know to be pruned: the arguments of `pruning.Watch`."""
        if self.pruner == "none":
            return None
        return {
            "storage": self.address(),
            "study": self.study_name,
            "number": trial.number,
            "metric": self.metric,
            "pruner": self.pruner,
            "options": self.pruner_options,
        }

    def check_pruning(self, space: "Space") -> None:
        if len(space.seeds) > 1:
            raise UserError(
                f"hydra.sweeper.pruner={self.pruner}: compares single runs; with several seeds a "
                "trial is their mean, "
                "so leave out one of the two"
            )
        if not str(self.metric).startswith("val/"):
            raise UserError(
                f"hydra.sweeper.pruner={self.pruner}: {self.metric} is none of validation; "
                "expected val/…"
            )

    def make_sampler(self, begun: int) -> Any:
        """begun: trials that are there. A sampler that starts from the same seed draws the same
        values once more; the points of `qmc` are numbered in the storage and need one seed."""
        import optuna

        seed = self.sampler_seed + (0 if self.sampler == "qmc" else begun)
        return made(
            "sampler",
            optuna.samplers,
            SAMPLERS[self.sampler],
            {"seed": seed, **self.sampler_options},
        )

    def address(self) -> str:
        return self.storage or str(self.folder / "optuna.journal")

    def open(self) -> "optuna.Study":
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            import optuna
        except ImportError as error:
            raise UserError(INSTALL) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=open_storage(self.address()),
            study_name=self.study_name,
            direction=self.direction,
            load_if_exists=True,
            pruner=make_pruner(self.pruner, self.pruner_options),
        )
        study.sampler = self.make_sampler(len(study.get_trials(deepcopy=False)))
        if study.direction.name.lower() != self.direction:
            raise UserError(
                f"hydra.sweeper.study={self.study_name}: was begun to "
                f"{study.direction.name.lower()} and is now asked "
                f"to {self.direction}; name another study"
            )
        return study


def open_storage(address: str) -> Any:
    """A database where the address is one of SQLAlchemy's (`sqlite:///FILE`), else a journal
    file."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in address:
        try:
            return RDBStorage(address)
        except Exception as error:  # SQLAlchemy's own kinds, and those of its drivers
            key = f"hydra.sweeper.storage={address}"
            remedy = "expected sqlite:///FILE or a file"
            raise UserError(key, first_line(error), remedy) from error
    path = Path(address).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def make_pruner(name: str, options: dict[str, Any]) -> Any:
    import optuna

    return made("pruner", optuna.pruners, PRUNERS[name], options)


def made(kind: str, module: Any, name: str, options: dict[str, Any]) -> Any:
    try:
        return getattr(module, name)(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.{kind}_options: {' '.join(str(error).split())}") from error


def ended(study: "optuna.Study") -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def left_open(study: "optuna.Study", space: "Space") -> "list[optuna.Trial]":
    """Trials of an earlier asking that have no end. Those that failed are put in line to be tried
    again."""
    import optuna
    from optuna.trial import TrialState

    def values(trial: Any) -> tuple[Any, ...]:
        return tuple(sorted((trial.system_attrs.get("fixed_params") or trial.params).items()))

    trials = [
        t for t in study.get_trials(deepcopy=False) if set(dict(values(t))) == set(space.searched)
    ]
    tried = {values(trial) for trial in trials if trial.state != TrialState.FAIL}
    for trial in trials:
        if values(trial) not in tried:
            tried.add(values(trial))
            study.enqueue_trial(dict(values(trial)))
    return [optuna.trial.Trial(study, t._trial_id) for t in trials if t.state == TrialState.RUNNING]


def tell(study: "optuna.Study", trial: "optuna.Trial", jobs: Sequence[Job]) -> bool:
    """Tell a trial's end: the mean over its runs. False where one of them has none yet."""
    from optuna.trial import TrialState

    if any(job.lost or job.state == "stopped" for job in jobs):
        return False
    values = [job.value for job in jobs]
    if any(job.state == "pruned" for job in jobs):
        study.tell(trial.number, state=TrialState.PRUNED)
    elif any(value is None or not math.isfinite(value) for value in values):
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        study.tell(trial.number, sum(value for value in values if value is not None) / len(values))
    return True
