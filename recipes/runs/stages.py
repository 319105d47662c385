"""A recipe of several runs, each with a fresh Trainer: what one leaves behind, the next one begins
with.

    stages:                      in a recipe's file: further overrides of every stage, in the words
      of the command line representation: []
      classifier: ["long_tail=classifier_retraining", "trainer.max_steps=300"]

    FOLDER/stages.json           figures of the stages that are done
    FOLDER/NAME/                 the folder of a stage, as that of any run

What the user says on the command line holds in every stage and wins over the stage's own overrides.
A key of a method or a measurement (`methods.noisy_student.threshold=0.5`) holds in the stages that
have it, and one of them must. Groups of config that a stage chooses are the stage's alone. A stage
takes the last weights of the one before as `network.checkpoint`, unless it names others. `{NAME}`
as a value is the last checkpoint of the stage NAME before it; a stage that names one begins with
fresh weights. `resume=FOLDER run_dir=FOLDER` leaves out what is done, and goes on within a stage.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.errors import UserError, nearest
from foundation.files import write_text
from recipes.runs.assembly import assemble
from recipes.runs.changes import config_text, differences, parsed, plain, shown
from recipes.runs.checkpoint_files import clear, has_checkpoint, resumable
from recipes.runs.plan import describe
from recipes.runs.resume import check_changes, listed, resume_point
from recipes.runs.run import run

DONE = "stages.json"
BRACED = re.compile(r"\{\w+\}")
Figures = dict[str, dict[str, float]]


def last_checkpoint(folder: Path, stage: str) -> Path:
    """Where a stage leaves its weights."""
    return folder / stage / "checkpoints" / "last.ckpt"


def stages_of(config: DictConfig) -> Iterator[tuple[str, str | None, DictConfig]]:
    """(name, stage whose weights it begins with, config) of every stage, with a folder of its own
    and without paths to weights that do not exist yet."""
    before: list[str] = []
    for name in config.stages:
        stage = copy.deepcopy(config.stages[name])
        given = stage.network.get("checkpoint")
        named = put_artefacts(stage, Path(config.run_dir), before, str(name))
        source = (
            before[-1]
            if before and not named and given == config.network.get("checkpoint")
            else None
        )
        with open_dict(stage):
            stage.run_dir, stage.dry_run, stage.resume = (
                str(Path(config.run_dir) / str(name)),
                config.dry_run,
                None,
            )
            if source:
                stage.network.checkpoint = None
        yield str(name), source, stage
        before.append(str(name))


def put_artefacts(stage: DictConfig, folder: Path, before: Sequence[str], name: str) -> bool:
    """Put the paths of earlier stages' last checkpoints in place of their names in braces; returns
    whether there were any. Raises `UserError` for a name that no stage before has."""
    found = {
        key: value[1:-1]
        for key, value in leaves(stage)
        if isinstance(value, str) and BRACED.fullmatch(value)
    }
    for key, source in found.items():
        if source not in before:
            raise UserError(
                f"stages.{name}: {key}={{{source}}} names no stage before it; "
                f"{nearest(source, before)}"
            )
        OmegaConf.update(stage, key, str(last_checkpoint(folder, source)))
    return bool(found)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a config that is no mapping; lists are left out."""
    for key in node:
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, ListConfig) and not value._is_interpolation():
            yield f"{prefix}{key}", value._value()


def plan_stages(config: DictConfig) -> str:
    """The plans of all stages. Raises `UserError` where one of them could not begin."""
    plans, faults = [], []
    for name, source, stage in stages_of(config):
        try:
            assembly = assemble(stage)
            weights = f", begins with the weights of {source}" if source else ""
            plans.append(f"stage {name}{weights}\n\n{describe(assembly, assembly.meta_network())}")
        except UserError as error:
            faults += [f"stages.{name}: {line}" for line in str(error).splitlines()]
    if faults:
        raise UserError("\n".join(faults))
    return "\n".join(plans)


def run_stages(config: DictConfig, command: list[str]) -> dict[str, float]:
    """Run all stages that are not done yet; returns the final metrics of the last one."""
    plan = plan_stages(config)
    if config.dry_run:
        print(plan, end="")
        return {}
    folder = Path(config.run_dir).expanduser()
    # looked at before the first stage starts: all ranks must come to the same answer
    done = read_done(folder) if config.resume else {}
    left = {name: config.resume and has_checkpoint(folder / name) for name in config.stages}
    kept = check_stages(config, done, left)
    write_folder(folder, config, plan, kept)
    for name, source, stage in stages_of(config):
        if name in done:
            continue
        begin_with(stage, folder, source)
        stage.resume = resumable(str(folder / name)) if left[name] else None
        if not left[name]:
            rank_zero_only(clear)(
                folder / name
            )  # a stage that was killed before it kept anything begins anew
        done[name] = run(stage, command, complete=True)
        write_done(folder, done)
    return done[name]


def begin_with(stage: DictConfig, folder: Path, source: str | None) -> None:
    """Take the last weights of the stage `source`, if there is one."""
    if source:
        stage.network.checkpoint = str(last_checkpoint(folder, source))


def check_stages(config: DictConfig, done: Figures, left: Mapping[str, Any]) -> list[str]:
    """Raise `UserError` where stages that have begun had other settings, unless these are meant.
    Returns what finished stages keep, a line each; those that are under way take up the new
    settings."""
    folder, kept = Path(config.run_dir).expanduser(), []
    for name, source, stage in stages_of(config):
        begin_with(stage, folder, source)
        stage.resume = str(folder / name)
        if name in done:
            path = folder / name / "config.yaml"
            found = []
            if path.is_file():
                found = differences(
                    parsed(path.read_text("utf-8"), f"resume: '{path}'"), plain(stage)
                )
            if found and not config.get("accept_changes"):
                raise UserError(
                    f"resume={stage.resume}: this stage is finished, with other settings: "
                    f"{listed(found)}; resume with "
                    "the settings it had, or add accept_changes=true where they are meant for the "
                    "stages to come"
                )
            kept += [
                f"stage {name} is finished and keeps {d.key} {shown(d.old)}, not {shown(d.new)}"
                for d in found
            ]
        elif left[name]:
            check_changes(resume_point(stage).found, stage)
    return kept


@rank_zero_only
def write_folder(folder: Path, config: DictConfig, plan: str, kept: Sequence[str] = ()) -> None:
    """kept: settings of finished stages that differ from the config's, a line each."""
    folder.mkdir(parents=True, exist_ok=True)
    told = "".join(f"  {line}\n" for line in kept)
    write_text(folder / "config.yaml", config_text(config, kept))
    write_text(
        folder / "plan.txt",
        plan + (f"\nsettings changed since the run began\n{told}" if kept else ""),
    )


@rank_zero_only
def write_done(folder: Path, done: Figures) -> None:
    write_text(folder / DONE, json.dumps(done, indent=1) + "\n")


def read_done(folder: Path) -> Figures:
    """Figures of the finished stages of a run; empty before the first is done."""
    path = folder / DONE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
