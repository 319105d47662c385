"""From a command's overrides to a run:

overrides | ready: resolve | RunSpec | settle_folder | RunSpec | run, or its stages | Result
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError, raise_all
from foundation.exit_codes import print_errors
from foundation.fast_imports import gc_paused
from recipes.config.groups import CONFIGS
from recipes.runs.ranks import further_rank, notify
from recipes.setup.title import run_title

if TYPE_CHECKING:
    from recipes.runs.run_folder import Settled
    from recipes.setup.spec import Result, RunSpec

# tells further ranks what rank 0 settled on: the folder, whose name holds the time, what it resumes
RUN = "ROUX_RUN"
FIRST_RANK = "ROUX_FIRST_RANK"  # and its process id


def single(overrides: Sequence[str], root: Path = CONFIGS) -> dict[str, float]:
    """One run in this process. Raises `UserError`; returns the run's final metrics."""
    return start(ready(overrides, root)).metrics


def ready(overrides: Sequence[str], root: Path = CONFIGS) -> "RunSpec":
    """What a sound command asks for. Raises `UserError`."""
    # validation imports whatever the config names, and with it nearly everything
    with gc_paused():
        from recipes.config.resolve import resolve_command
        from recipes.setup.spec import RunSpec

        command = resolve_command(overrides, root, begin)
    if not further_rank():
        notify(command.lines)
    return RunSpec(command.config, tuple(overrides))


def begin(config: DictConfig, errors: list[UserError]) -> None:
    """What can be said before seconds of imports: wrong names, else which run this will be."""
    if further_rank():
        return
    print_errors(errors)
    if not errors:
        notify([f"run: {run_title(config)}, in {place_of(config)}"])


def place_of(config: DictConfig) -> str:
    """The folder of a run as far as the command names it."""
    try:
        return str(config.run_dir)
    except OmegaConfBaseException:
        return "a folder to be named"  # validation says what is wrong with it


def start(spec: "RunSpec", **options: Any) -> "Result":
    """Run a sound spec, once its folder and what it resumes have been looked at. options: those of
    `recipes.runs.run.run`."""
    from recipes.runs.run_folder import released
    from recipes.setup.spec import Result

    settled = settle_folder(spec)
    if settled.run_dir != spec.config.run_dir and not further_rank():
        notify([f"the folder of this run is {settled.run_dir}"])
    if settled.finished is not None:
        return Result(settled.finished)
    spec = spec.having({"run_dir": settled.run_dir, "resume": settled.resume})
    if spec.has_stages:
        from recipes.runs.stages import run_stages as run
    else:
        from recipes.runs.run import run
    first = environment(FIRST_RANK, str(follow_first_rank()))
    told = environment(RUN, json.dumps([settled.run_dir, settled.resume]))
    with released(settled), first, told:
        return run(spec, **options)


def follow_first_rank() -> int:
    """The process id of the first rank of this run; a further one that it has started ends soon
    after it."""
    if not further_rank() or FIRST_RANK not in os.environ:
        return os.getpid()
    from recipes.runs.processes import end_with_first_rank

    first = int(os.environ[FIRST_RANK])
    end_with_first_rank(first)
    return first


def settle_folder(spec: "RunSpec") -> "Settled":
    """The run's folder and what it resumes. Further ranks get both from the first."""
    from recipes.runs.run_folder import Settled, released, settle_place

    if further_rank() and RUN in os.environ:
        return Settled(*json.loads(os.environ[RUN]))
    settled = settle_place(spec, first=not further_rank())
    if settled.finished is not None or further_rank():
        return settled
    with released(settled):
        return checked(settled, spec)


def checked(settled: "Settled", spec: "RunSpec") -> "Settled":
    """The same, with the checkpoint to take if that of the folder is damaged. Raises
    `ConfigErrors` with all that is wrong with `run_dir` and `resume`."""
    from recipes.checkpointing.files import (
        load_checkpoint,
        resumable,
        run_dir_errors,
        stages_errors,
    )
    from recipes.checkpointing.folder_files import folder_errors

    run_dir, resume = settled.run_dir, settled.resume
    errors = run_dir_errors(run_dir, resume, reading=spec.dry_run)
    if resume is not None and spec.has_stages:
        errors += stages_errors(run_dir, resume)
        for name in spec.config.stages:
            errors += folder_errors(Path(run_dir).expanduser() / str(name))
    elif resume is not None:
        try:
            resume = resumable(resume)
            load_checkpoint(resume)
        except UserError as error:
            errors.append(error)
    raise_all(errors)
    return settled.resuming(resume)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
