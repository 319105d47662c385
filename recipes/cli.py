"""The command line: help, one run, or many (`-m`), and how mistakes reach the user.

    python train.py recipe=fixmatch methods.fixmatch.tau=0.9      one run, in this process
    python train.py -m recipe=supervised,fixmatch seed=0,1,2      many, by Hydra's sweepers and launchers

Every mistake of the user's is a line on stderr and exit code 2, all of them at once and before anything
starts; with `-m` the configs of all jobs are checked before the first one runs. Any other error is a bug and
keeps its traceback. Nothing heavy is imported before it is needed: help must come at once."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import UserError
from recipes.groups import CONFIGS, spoken
from recipes.paths import Terminated

if TYPE_CHECKING:
    from omegaconf import DictConfig

USER_MISTAKE, INTERRUPTED = 2, 130
TERMINATED = 75  # sysexits.h: a temporary failure, to be tried again; the same command with resume=auto goes on
RUN = "ROUX_RUN"  # tells further ranks what rank 0 settled on: the folder, whose name holds the time, what it resumes


def main(argv: Sequence[str], root: Path = CONFIGS) -> int:
    """Run a command line (without the program's name); returns the exit code."""
    if any(argument in ("-h", "--help") for argument in argv):
        from recipes.help import help_text

        print(help_text(root))
        return 0
    # a method of the user's own is found where the user stands, as with python -m
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        if any(argument.startswith("-") for argument in argv):
            through_hydra(list(argv), root)
        else:
            single(list(argv), root)
    except UserError as error:
        return _complain(str(error).splitlines())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Terminated as stop:
        print(
            f"terminated: {stop.step} steps are kept; go on with resume={stop.folder} run_dir={stop.folder}",
            file=sys.stderr,
        )
        return TERMINATED
    return 0


def single(overrides: list[str], root: Path = CONFIGS) -> dict[str, float]:
    """One run in this process. Raises `UserError`; returns the run's final metrics."""
    from recipes.config import resolve_command

    return start(resolve_command(overrides, root).config, overrides)


def start(config: "DictConfig", overrides: list[str], named: bool = False) -> dict[str, float]:
    """Run a sound, resolved config, once its folder and what it resumes have been looked at. named: `run_dir` was
    chosen, by one of the overrides or otherwise."""
    if further_rank() and RUN in os.environ:
        config.run_dir, config.resume = json.loads(os.environ[RUN])
    else:
        from recipes.place import settle_place

        done = settle_place(config, named or any(o.startswith("run_dir=") for o in overrides), not further_rank())
        if done is not None:
            return done
        if not further_rank():
            check_paths(config)
    if config.get("stages"):
        from recipes.stages import run_stages as run
    else:
        from recipes.run import run

    with _environment(RUN, json.dumps([config.run_dir, config.resume])):
        return run(config, overrides)


def check_paths(config: "DictConfig") -> None:
    """Look at `run_dir` and `resume`. Raises `UserError` with all that is wrong with them."""
    from recipes.config import Faults
    from recipes.paths import load_checkpoint, resumable, run_dir_faults, stages_faults

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


def through_hydra(argv: list[str], root: Path = CONFIGS) -> None:
    """Runs that need Hydra's own machinery: `-m` with its sweepers and launchers, `--cfg`, `--info` and the
    like."""
    import hydra

    from recipes.jobs import check_jobs, hydra_job, redirect_sweep

    argv = redirect_sweep(spoken(argv, root))
    check_jobs(argv, root)
    # without this variable Hydra prints errors in its own way and exits by itself
    with _environment("HYDRA_FULL_ERROR", "1"), _arguments([sys.argv[0], *argv]):
        try:
            hydra.main(version_base="1.3", config_path=str(root.resolve()), config_name="config")(hydra_job)()
        except hydra.errors.HydraException as error:
            raise UserError(" ".join(str(error).split())) from error


def _complain(lines: Sequence[str]) -> int:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return USER_MISTAKE


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


def as_command(overrides: list[str]) -> Any:
    """Make this process look as if it had been started with these overrides: Lightning starts further ranks
    by repeating the command, and of a multirun they must repeat one job only."""
    return _arguments([sys.argv[0], *overrides])
