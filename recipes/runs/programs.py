"""A stage that is a program: on the first rank alone, in a folder of its own."""

import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf

from foundation.errors import UserError
from foundation.files import write_json, write_text
from recipes.checkpointing.files import LOCK, remove, run_folder, writing
from recipes.checkpointing.folder_files import METRICS, STAGES, read_stages
from recipes.contract.program import Program
from recipes.runs.loops import STOP
from recipes.runs.ranks import further_rank, notify
from recipes.setup.assemble import make
from recipes.setup.changes import config_text
from recipes.setup.spec import RunSpec

logger = logging.getLogger(__name__)
POLL = 0.1  # seconds between two looks of a further rank


def program_of(stage: RunSpec) -> Program:
    program: Program = make(stage.config.program, f"stages.{stage.stage}.program")
    return program


def program_plan(stage: RunSpec, program: Program) -> str:
    """A line of the plan. stage: with the values that its config has, not with paths."""
    node = OmegaConf.to_container(stage.config.program)
    assert isinstance(node, dict)
    settings = [f"{key!s}={value}" for key, value in node.items() if key != "_target_"]
    name = type(program).__name__
    leaves = f"leaves {', '.join(program.artifacts)}" if program.artifacts else "leaves no files"
    return f"stage {stage.stage}: {name}, {', '.join([*settings, leaves])}\n"


def run_program(stage: RunSpec, recipe_folder: Path) -> dict[str, Any]:
    """The metrics of the program of a stage. Further ranks wait until the first one has them."""
    if further_rank():
        return awaited_metrics(stage.stage, recipe_folder)
    program = program_of(stage)
    folder = stage.folder
    notify([f"stage {stage.stage}: {type(program).__name__}"])
    with run_folder(folder), writing(folder):
        if not program.resumes:
            empty(folder)
        write_text(folder / "config.yaml", config_text(stage.config))
        pl.seed_everything(stage.config.seed, workers=True, verbose=False)
        outcome = program.run(folder, stage.config.seed)
        check_made(stage, program)
        metrics = dict(outcome.metrics)
        if program.may_stop:
            metrics[STOP] = float(outcome.stop)
        write_json(folder / METRICS, metrics)
    return metrics


def empty(folder: Path) -> None:
    """Remove what a killed call left; the lock is this process's own."""
    for path in folder.iterdir():
        if path.name != LOCK:
            remove(path)


def check_made(stage: RunSpec, program: Program) -> None:
    for artifact, file in program.artifacts.items():
        if not (stage.folder / file).is_file():
            name = f"{type(program).__module__}.{type(program).__name__}"
            problem = f"{name} has not written '{file}', its artifact '{artifact}'"
            raise UserError(f"stages.{stage.stage}.program", problem, "mend its `run`")


def awaited_metrics(name: str, recipe_folder: Path) -> dict[str, Any]:
    """What the first rank has noted of a stage. Where the first rank ends, so does this process."""
    path = recipe_folder / STAGES
    while True:
        done = read_stages(path) if path.is_file() else {}
        if name in done:
            return done[name]
        time.sleep(POLL)
