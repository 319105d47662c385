"""The command line: help, one run, or many (`-m`), and how mistakes reach the user.

    python train.py recipe=fixmatch methods.fixmatch.tau=0.9      one run, in this process
    python train.py -m recipe=supervised,fixmatch seed=0,1,2      many, by Hydra's sweepers and launchers

Every mistake of the user's is a line on stderr and exit code 2, all of them at once and before anything
starts; with `-m` the configs of all jobs are checked before the first one runs. Any other error is a bug and
keeps its traceback. Nothing heavy is imported before it is needed: help must come at once."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.fast_imports import uncollected
from recipes.config.groups import CONFIGS, spoken
from recipes.runs.checkpoint_files import Terminated

if TYPE_CHECKING:
    from omegaconf import DictConfig

JOBS_FAILED, USER_MISTAKE, INTERRUPTED = 1, 2, 130
TERMINATED = 75  # sysexits.h: a temporary failure, to be tried again; the same command with resume=auto goes on
RUN = "ROUX_RUN"  # tells further ranks what rank 0 settled on: the folder, whose name holds the time, what it resumes


def main(argv: Sequence[str], root: Path = CONFIGS) -> int:
    """Run a command line (without the program's name); returns the exit code."""
    if any(argument in ("-h", "--help") for argument in argv):
        from recipes.cli.help import help_text

        print(help_text(root))
        return 0
    # a method of the user's own is found where the user stands, as with python -m
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return exit_code(lambda: begin(list(argv), root))


def begin(argv: list[str], root: Path) -> int:
    """One run, or what Hydra's flags ask for; returns the exit code."""
    if any(argument.startswith("-") for argument in argv):
        return through_hydra(argv, root)
    single(argv, root)
    return 0


def exit_code(action: Callable[[], int]) -> int:
    """Do something that a process is for; its mistakes become lines, and every end has its code."""
    try:
        return action()
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Terminated as stop:
        print(
            f"terminated: {stop.step} steps are kept; go on with resume={stop.folder} run_dir={stop.folder}",
            file=sys.stderr,
        )
        return TERMINATED


def single(overrides: list[str], root: Path = CONFIGS) -> dict[str, float]:
    """One run in this process. Raises `UserError`; returns the run's final metrics."""
    return start(ready(overrides, root), overrides)


def ready(overrides: list[str], root: Path = CONFIGS) -> "DictConfig":
    """The sound, resolved config of a run. Raises `UserError`."""
    with uncollected():  # validation imports whatever the config names, and with it nearly everything
        from recipes.config.resolve import resolve_command

        return resolve_command(overrides, root).config


def start(config: "DictConfig", overrides: list[str], **options: Any) -> dict[str, float]:
    """Run a sound, resolved config, once its folder and what it resumes have been looked at. options: those of
    `recipes.runs.run.run`."""
    if further_rank() and RUN in os.environ:
        config.run_dir, config.resume = json.loads(os.environ[RUN])
    else:
        from recipes.runs.place import settle_place

        named = any(override.startswith("run_dir=") for override in overrides)
        done = settle_place(config, named, first=not further_rank())
        if done is not None:
            return done
        if not further_rank():
            check_paths(config)
    if config.get("stages"):
        from recipes.runs.stages import run_stages as run
    else:
        from recipes.runs.run import run

    with _environment(RUN, json.dumps([config.run_dir, config.resume])):
        return run(config, overrides, **options)


def check_paths(config: "DictConfig") -> None:
    """Look at `run_dir` and `resume`. Raises `UserError` with all that is wrong with them."""
    from recipes.config.resolve import Faults
    from recipes.runs.checkpoint_files import load_checkpoint, resumable, run_dir_faults, stages_faults

    faults = run_dir_faults(config.run_dir, config.resume, reading=config.dry_run)
    if config.resume is not None and config.get("stages"):
        faults += stages_faults(config.run_dir, config.resume)
    elif config.resume is not None:
        try:
            config.resume = resumable(config.resume)
            load_checkpoint(config.resume)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise Faults(faults)


def through_hydra(argv: list[str], root: Path = CONFIGS) -> int:
    """Runs that need Hydra's own machinery: `-m` with its sweepers and launchers, `--cfg`, `--info` and the
    like. Returns the exit code."""
    with uncollected():
        import hydra

        from recipes.cli.multirun import conclude, hydra_job, prepare, search_path

        argv, sweep = prepare(spoken(argv, root), root)
    # without this variable Hydra prints errors in its own way and exits by itself
    full, path = _environment("HYDRA_FULL_ERROR", "1"), _environment("PYTHONPATH", search_path())
    with full, path, _arguments([sys.argv[0], *argv]):
        try:
            hydra.main(version_base="1.3", config_path=str(root.resolve()), config_name="config")(hydra_job)()
        except KeyboardInterrupt:
            conclude(sweep)
            raise
        except hydra.errors.HydraException as error:
            raise UserError(" ".join(str(error).split())) from error
    return conclude(sweep)


def further_rank() -> bool:
    """Whether this process is a rank other than the first, which settles and checks the paths for all."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return any(rank.isdigit() and int(rank) > 0 for rank in ranks)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def _arguments(argv: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before
