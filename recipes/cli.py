"""The command line: help, one run, or many (`-m`), and how mistakes reach the user.

    python train.py recipe=fixmatch methods.fixmatch.tau=0.9      one run, in this process
    python train.py -m recipe=supervised,fixmatch seed=0,1,2      many, by Hydra's sweepers and launchers

Every mistake of the user's is a line on stderr and exit code 2, all of them at once and before anything
starts; with `-m` the configs of all jobs are checked before the first one runs. Any other error is a bug and
keeps its traceback. Nothing heavy is imported before it is needed: help must come at once."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import UserError
from recipes.groups import CONFIGS, spoken

if TYPE_CHECKING:
    from omegaconf import DictConfig

JOBS_FAILED, USER_MISTAKE, INTERRUPTED = 1, 2, 130
RUN_DIR = "ROUX_RUN_DIR"  # tells further ranks the folder that rank 0 settled on: its name holds the time


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
            return through_hydra(list(argv), root)
        single(list(argv), root)
    except UserError as error:
        return complain(str(error).splitlines())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def single(overrides: list[str], root: Path = CONFIGS) -> dict[str, float]:
    """One run in this process. Raises `UserError`; returns the run's final metrics."""
    from recipes.config import resolve_command

    return start(resolve_command(overrides, root).config, overrides)


def start(config: "DictConfig", overrides: list[str], **options: Any) -> dict[str, float]:
    """Run a sound, resolved config, once its folder and what it resumes have been looked at. options: those of
    `recipes.run.run`."""
    if further_rank():
        config.run_dir = os.environ.get(RUN_DIR, config.run_dir)
    else:
        check_paths(config)
    if config.get("stages"):
        from recipes.stages import run_stages as run
    else:
        from recipes.run import run

    with _environment(RUN_DIR, config.run_dir):
        return run(config, overrides, **options)


def check_paths(config: "DictConfig") -> None:
    """Look at `run_dir` and `resume`. Raises `UserError` with all that is wrong with them."""
    from recipes.config import Faults
    from recipes.paths import load_checkpoint, run_dir_faults, stages_faults

    faults = run_dir_faults(config.run_dir, config.resume, reading=config.dry_run)
    if config.resume is not None and config.get("stages"):
        faults += stages_faults(config.run_dir, config.resume)
    elif config.resume is not None:
        try:
            load_checkpoint(config.resume)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise Faults(faults)


def through_hydra(argv: list[str], root: Path = CONFIGS) -> int:
    """Runs that need Hydra's own machinery: `-m` with its sweepers and launchers, `--cfg`, `--info` and the
    like. Returns the exit code."""
    import hydra

    from recipes.jobs import conclude, hydra_job, prepare, search_path

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


def complain(lines: Sequence[str]) -> int:
    """A line for each mistake; returns the exit code."""
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
