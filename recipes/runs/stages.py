"""A recipe of several runs, each with a fresh Trainer and the weights of the one before.

    stages:                      in a recipe's file: further overrides of every stage, in the words
      representation: []         of the command line
      classifier: ["long_tail=crt", "trainer.max_steps=300"]

    FOLDER/stages.json           metrics of the stages that are done
    FOLDER/NAME/                 the folder of a stage, as that of any run

An override on the command line holds in every stage and wins over the stage's own;
`stages.NAME.KEY=VALUE` holds in one stage and wins over both. A key of a method or a measurement
(`methods.noisy_student.threshold=0.5`) holds in the stages that have it, and one of them must.
Groups of config that a stage chooses are the stage's alone. A stage takes the last weights of the
one before as `network.checkpoint`, unless it names others; deltas of methods that it lacks are
merged into the weights. `{NAME}` as a value is the last checkpoint of the stage NAME before it,
`{NAME.ARTIFACT}` a file that it left; a stage that names one begins with fresh weights, as does
one with `network.checkpoint=fresh`.
A stage may be a program (`contract/program.py`) and may be repeated (`config/stage_forms.py`).
`resume=FOLDER run_dir=FOLDER` leaves out what is done, and resumes within a stage.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.errors import UserError
from foundation.files import write_text
from recipes.checkpointing.files import clear, has_checkpoint, resumable, run_folder
from recipes.checkpointing.folder_files import STAGES, read_stages
from recipes.config.plain_yaml import read_plain
from recipes.runs.artifacts import last_checkpoint
from recipes.runs.loops import LEFT_OUT, Figures, last_metrics, was_done
from recipes.runs.programs import run_program
from recipes.runs.resume import check_changes, listed, resume_point
from recipes.runs.run import run
from recipes.runs.stage_plan import StagePlans, is_program, plan_stages, stage_spec
from recipes.runs.stage_weights import MergedWeights, merged_weights
from recipes.setup.changes import config_text, differences, plain, shown
from recipes.setup.spec import Result, RunSpec

__all__ = ["plan_stages", "run_stages"]


def run_stages(spec: RunSpec) -> Result:
    """Run all stages that are not done yet; returns the final metrics of the last one."""
    plans = plan_stages(spec)
    if spec.dry_run:
        print(plans.text, end="")
        return Result({})
    folder = spec.folder
    # looked at before the first stage starts: all ranks must come to the same answer
    done = read_done(folder) if spec.resume else {}
    begun = begun_stages(spec)
    finished_changes = check_stages(spec, done, begun, plans)
    # a stage that is refused at once leaves nothing that would stop the mended command
    with run_folder(folder):
        write_folder(spec, plans.text, finished_changes)
        run_each(spec, done, begun, plans)
    return Result(last_metrics(done))


def run_each(spec: RunSpec, done: Figures, begun: set[str], plans: StagePlans) -> None:
    """Run the stages that are not done; their metrics are added to `done`."""
    folder = spec.folder
    for name in map(str, spec.config.stages):
        if name in done:
            continue
        place = plans.places.get(name)
        if place is not None and place.ended(done):
            done[name] = dict(LEFT_OUT)
        elif is_program(spec.config.stages[name]):
            done[name] = run_program(ready_stage(spec, name, done, plans), folder)
        else:
            done[name] = run_run(spec, ready_stage(spec, name, done, plans), begun, plans)
        write_done(folder, done)


def run_run(spec: RunSpec, stage: RunSpec, begun: set[str], plans: StagePlans) -> dict[str, Any]:
    """The metrics of a stage that is a run."""
    name = stage.stage
    if name in begun:
        stage = stage.having({"resume": resumable(str(spec.folder / name))})
    else:
        # a stage that was killed before it saved anything begins anew
        rank_zero_only(clear)(spec.folder / name)
    return run(stage, mergers(spec, name, plans)).metrics


def begun_stages(spec: RunSpec) -> set[str]:
    """The stages of a run that is resumed that have a checkpoint."""
    if not spec.resume:
        return set()
    return {str(name) for name in spec.config.stages if has_checkpoint(spec.folder / str(name))}


def ready_stage(spec: RunSpec, name: str, done: Figures, plans: StagePlans) -> RunSpec:
    """The spec of a stage before which all others are done, with the weights that it begins
    with."""
    names = list(map(str, spec.config.stages))
    before = [other for other in names[: names.index(name)] if was_done(other, done)]
    stage = stage_spec(spec, name, plans.before(before))
    if name not in plans.merged:
        return stage
    path = Path(stage.config.network.checkpoint)
    return stage.having({"network.checkpoint": str(merged_weights(path, name))})


def mergers(spec: RunSpec, name: str, plans: StagePlans) -> list[MergedWeights]:
    """What writes the weights of a stage for those that lack some of its methods."""
    path = last_checkpoint(spec.folder, name)
    base = plans.base(name)
    # a loop may end with any of its rounds, so each writes for what comes after it
    return [
        MergedWeights(merged_weights(path, stage), leaving)
        for stage, leaving in plans.merged.items()
        if plans.base(plans.begins_with[stage]) == base
    ]


def check_stages(spec: RunSpec, done: Figures, begun: set[str], plans: StagePlans) -> list[str]:
    """Raise `UserError` if stages that have begun had other settings, unless these are meant.
    Returns what finished stages keep, a line each; those that are under way take up the new
    settings."""
    lines: list[str] = []
    check_order(spec, done)
    for name in map(str, spec.config.stages):
        if not was_done(name, done) and name not in begun:
            continue
        stage = ready_stage(spec, name, done, plans)
        stage = stage.having({"resume": str(spec.folder / name)})
        if name in done:
            lines += finished_stage_lines(stage, spec.accepts_changes)
        else:
            check_changes(resume_point(stage).differing, stage)
    return lines


def check_order(spec: RunSpec, done: Figures) -> None:
    """Raise `UserError` if a stage is finished and one before it is not, as where a loop has more
    rounds now: what comes after it would be of another recipe."""
    undone = ""
    for name in map(str, spec.config.stages):
        if name in done and undone:
            problem = f"is finished, and the stage {undone} before it is not"
            raise UserError(f"stages.{name}", problem, "name another run_dir")
        if name not in done:
            undone = undone or name


def finished_stage_lines(stage: RunSpec, accepts_changes: bool) -> list[str]:
    """What a finished stage keeps of its own, a line each. Raises `UserError` unless the new
    settings are meant for the stages to come."""
    path = stage.folder / "config.yaml"
    if not path.is_file():
        return []
    old = plain(read_plain(path, f"resume: '{path}'"))
    differing = differences(old, plain(stage.config))
    if differing and not accepts_changes:
        raise UserError(
            f"resume={stage.resume}",
            f"this stage is finished, with other settings: {listed(differing)}",
            "resume with the settings it had, or add accept_changes=true where they are meant for "
            "the stages to come",
        )
    return [
        f"stage {stage.stage} is finished and keeps {d.key} {shown(d.old)}, not {shown(d.new)}"
        for d in differing
    ]


@rank_zero_only
def write_folder(spec: RunSpec, plan: str, changes: Sequence[str] = ()) -> None:
    """changes: settings of finished stages that differ from the config's, a line each."""
    folder = spec.folder
    folder.mkdir(parents=True, exist_ok=True)
    if changes:
        listed_changes = "".join(f"  {line}\n" for line in changes)
        plan = f"{plan}\nsettings changed since the run began\n{listed_changes}"
    write_text(folder / "config.yaml", config_text(spec.config, changes))
    write_text(folder / "plan.txt", plan)


@rank_zero_only
def write_done(folder: Path, done: Mapping[str, Any]) -> None:
    write_text(folder / STAGES, json.dumps(done, indent=1) + "\n")


def read_done(folder: Path) -> Figures:
    """Metrics of the finished stages of a run; empty before the first is done."""
    path = folder / STAGES
    return read_stages(path) if path.is_file() else {}
