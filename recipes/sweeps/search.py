"""Searches with Optuna's ask and tell: trials are in a storage, Hydra's launcher runs their jobs.

The storage contains only text and numbers; samplers that pickle themselves into it are not offered.
Repeating a command resumes its search: unfinished trials of a killed search are completed, failed
ones are repeated, and `n_trials` counts all completed trials."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foundation.errors import UserError, first_line
from foundation.files import os_reason
from recipes.checkpointing.folder_files import kind_of
from recipes.report.numbers import lower_is_better
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
    direction: `maximize` or `minimize`; null: minimize a loss, maximize other metrics.
    n_trials: completed trials, including those of earlier invocations, at least 1; 20.
    n_jobs: trials launched at once, at least 1; 1; more need a launcher with parallel jobs.
    sampler: `tpe`, `random`, `qmc` or `gp`.
    sampler_seed: seed of the sampler, at least 0; 0.
    sampler_options: arguments of the sampler's class, e.g. {n_startup_trials: 5}; null: none.
    pruner: `median`, `percentile`, `halving`, `hyperband` or `none`; stops runs that validate worse
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
            "minimize" if lower_is_better(self.metric) else "maximize"
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
            problem = "a search chooses its runs one after the other"
            raise UserError("dry_run=true", problem, "use it on a single run, without -m")
        if self.pruner != "none":
            self.check_pruning(space)
        study = self.open()
        unfinished = unfinished_trials(study, space)
        for _ in range(0, self.n_trials, self.n_jobs):
            missing = self.n_trials - completed(study)
            if missing <= 0 or not self.batch(study, space, unfinished, min(self.n_jobs, missing)):
                break
        return study

    def batch(
        self, study: "optuna.Study", space: "Space", unfinished: "list[optuna.Trial]", size: int
    ) -> bool:
        """Ask for `size` trials, run their jobs, tell the results. False where a job has no end."""
        trials = [
            unfinished.pop(0) if unfinished else study.ask(space.searched) for _ in range(size)
        ]
        wanted: list[Job] = []
        for trial in trials:
            pruning = self.pruning_arguments(trial)
            for job in space.jobs(trial.params):
                wanted.append(
                    replace(job, metric=self.metric, direction=self.direction, trial=pruning)
                )
        numbers = iter(self.run(wanted))
        jobs = jobs_of(self.folder)
        all_ended = True
        for trial in trials:
            # the jobs of a trial follow each other, one per seed
            of_trial = [jobs[next(numbers)] for _ in space.seeds]
            all_ended = tell(study, trial, of_trial) and all_ended
        return all_ended

    def pruning_arguments(self, trial: "optuna.Trial") -> dict[str, Any] | None:
        """The arguments of `pruning.PruningCallback`; None without a pruner."""
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
        key = f"hydra.sweeper.pruner={self.pruner}"
        if len(space.seeds) > 1:
            problem = "compares single runs, but with several seeds a trial is the mean of its runs"
            raise UserError(key, problem, "sweep one seed, or use no pruner")
        if not str(self.metric).partition("/")[0].endswith("val"):
            problem = f"{self.metric} is not a validation metric"
            raise UserError(key, problem, "expected hydra.sweeper.metric=val/…")

    def make_sampler(self, begun: int) -> Any:
        """The sampler of an invocation. begun: trials in the storage.

        With an unchanged seed a resumed search would draw the values of its first trials again.
        `qmc` numbers its points in the storage and needs the same seed throughout.
        """
        import optuna

        seed = self.sampler_seed + (0 if self.sampler == "qmc" else begun)
        options = {"seed": seed, **self.sampler_options}
        return construct("sampler", optuna.samplers, SAMPLERS[self.sampler], options)

    def address(self) -> str:
        return self.storage or str(self.folder / "optuna.journal")

    def open(self) -> "optuna.Study":
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            import optuna
        except ImportError as error:
            raise UserError(INSTALL) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = make_pruner(self.pruner, self.pruner_options)
        storage = open_storage(self.address())
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=self.study_name,
                direction=self.direction,
                load_if_exists=True,
                pruner=pruner,
            )
        except Exception as error:  # whatever Optuna makes of a journal that holds something else
            raise no_storage(self.address(), f"holds no trials ({first_line(error)})") from error
        study.sampler = self.make_sampler(len(study.get_trials(deepcopy=False)))
        if study.direction.name.lower() != self.direction:
            problem = f"its direction is {study.direction.name.lower()}, not {self.direction}"
            raise UserError(f"hydra.sweeper.study={self.study_name}", problem, "use another study")
        return study


def open_storage(address: str) -> Any:
    """A database for an address of SQLAlchemy (`sqlite:///FILE`), else a journal file."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in address:
        try:
            return RDBStorage(address)
        except Exception as error:  # SQLAlchemy's errors and those of its drivers
            raise no_storage(address, first_line(error)) from error
    path = Path(address).expanduser()
    if os.path.lexists(path) and not path.is_file():
        raise no_storage(address, f"is {kind_of(path)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise no_storage(address, f"cannot be written ({os_reason(error)})") from error
    except Exception as error:  # whatever Optuna makes of a journal that holds something else
        raise no_storage(address, f"holds no trials ({first_line(error)})") from error


def no_storage(address: str, problem: str) -> UserError:
    remedy = "expected sqlite:///FILE, or the file of a search, a new one where it is not there"
    return UserError(f"hydra.sweeper.storage={address}", problem, remedy)


def make_pruner(name: str, options: dict[str, Any]) -> Any:
    import optuna

    return construct("pruner", optuna.pruners, PRUNERS[name], options)


def construct(kind: str, module: Any, name: str, options: dict[str, Any]) -> Any:
    """An instance of Optuna's class `name`. Raises `UserError` for wrong options."""
    try:
        return getattr(module, name)(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.{kind}_options: {' '.join(str(error).split())}") from error


def completed(study: "optuna.Study") -> int:
    """Number of trials that are complete or pruned; failed ones do not count."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def unfinished_trials(study: "optuna.Study", space: "Space") -> "list[optuna.Trial]":
    """Trials of an earlier invocation without an end. Failed trials are enqueued again."""
    import optuna
    from optuna.trial import TrialState

    def values(trial: Any) -> tuple[Any, ...]:
        parameters = trial.system_attrs.get("fixed_params") or trial.params
        return tuple(sorted(parameters.items()))

    # a study may contain trials of another search space
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if dict(values(trial)).keys() == space.searched.keys()
    ]
    tried = {values(trial) for trial in trials if trial.state != TrialState.FAIL}
    for trial in trials:
        if values(trial) not in tried:
            tried.add(values(trial))
            study.enqueue_trial(dict(values(trial)))
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    return [optuna.trial.Trial(study, trial._trial_id) for trial in running]


def tell(study: "optuna.Study", trial: "optuna.Trial", jobs: Sequence[Job]) -> bool:
    """Tell a trial's result, the mean over its jobs. False where a job has not ended."""
    from optuna.trial import TrialState

    if any(job.lost or job.state == "stopped" for job in jobs):
        return False
    if any(job.state == "pruned" for job in jobs):
        study.tell(trial.number, state=TrialState.PRUNED)
        return True
    values = [job.value for job in jobs if job.value is not None]
    if len(values) < len(jobs) or not all(map(math.isfinite, values)):
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        study.tell(trial.number, sum(values) / len(values))
    return True
