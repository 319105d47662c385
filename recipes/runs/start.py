"""From a command's overrides to a run: its config is resolved, its folder and what it resumes are
settled."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundation.errors import UserError
from foundation.fast_imports import uncollected
from recipes.config.groups import CONFIGS

if TYPE_CHECKING:
    from omegaconf import DictConfig

# tells further ranks what rank 0 settled on: the folder, whose name holds the time, what it resumes
RUN = "ROUX_RUN"


def single(overrides: list[str], root: Path = CONFIGS) -> dict[str, float]:
    """One run in this process. Raises `UserError`; returns the run's final metrics."""
    return start(ready(overrides, root), overrides)


def ready(overrides: list[str], root: Path = CONFIGS) -> "DictConfig":
    """The sound, resolved config of a run. Raises `UserError`."""
    with (
        uncollected()
    ):  # validation imports whatever the config names, and with it nearly everything
        from recipes.config.resolve import resolve_command

        return resolve_command(overrides, root).config


def start(config: "DictConfig", overrides: list[str], **options: Any) -> dict[str, float]:
    """Run a sound, resolved config, once its folder and what it resumes have been looked at.
    options: those of `recipes.runs.run.run`."""
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

    with environment(RUN, json.dumps([config.run_dir, config.resume])):
        return run(config, overrides, **options)


def check_paths(config: "DictConfig") -> None:
    """Look at `run_dir` and `resume`. Raises `UserError` with all that is wrong with them."""
    from recipes.config.resolve import Faults
    from recipes.runs.checkpoint_files import (
        load_checkpoint,
        resumable,
        run_dir_faults,
        stages_faults,
    )

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


def further_rank() -> bool:
    """Whether this process is a rank other than the first, which settles and checks the paths for
    all."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return any(rank.isdigit() and int(rank) > 0 for rank in ranks)


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
