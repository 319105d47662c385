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
merged into the weights. `{NAME}` as a value, or in a list, is the last
checkpoint of the stage NAME before it; a stage that names one begins with fresh weights, as does
one with `network.checkpoint=fresh`.
`resume=FOLDER run_dir=FOLDER` leaves out what is done, and resumes within a stage.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.errors import UserError, nearest, raise_all
from foundation.files import write_text
from recipes.checkpointing.files import clear, has_checkpoint, resumable, run_folder
from recipes.checkpointing.folder_files import STAGES, read_stages
from recipes.config.plain_yaml import read_plain
from recipes.runs.plan import describe
from recipes.runs.resume import check_changes, listed, resume_point
from recipes.runs.run import run
from recipes.runs.stage_weights import MergedWeights, check_handover, merged_weights
from recipes.setup.assemble import Assembly, assemble
from recipes.setup.changes import config_text, differences, plain, shown
from recipes.setup.machine import check_machine
from recipes.setup.spec import Result, RunSpec, with_values

FRESH = "fresh"  # as a stage's network.checkpoint: the weights that a run without one has
BRACED = re.compile(r"\{\w+\}")
Figures = dict[str, dict[str, Any]]


def last_checkpoint(folder: Path, stage: str) -> Path:
    """Where a stage leaves its weights."""
    return folder / stage / "checkpoints" / "last.ckpt"


def stages_of(spec: RunSpec) -> Iterator[RunSpec]:
    """The spec of every stage, with a folder of its own and without paths to weights that do not
    exist yet."""
    before: list[str] = []
    for name in map(str, spec.config.stages):
        yield stage_spec(spec, name, before)
        before.append(name)


def stage_spec(spec: RunSpec, name: str, before: Sequence[str]) -> RunSpec:
    """The spec of one stage. before: the stages that are done by then."""
    config = spec.config.stages[name]
    artefacts = artefact_paths(config, spec.folder, before, name)
    values = artefacts | {
        "run_dir": str(Path(spec.config.run_dir) / name),
        "dry_run": spec.config.dry_run,
        "resume": None,
    }
    own_weights = config.network.get("checkpoint") != spec.config.network.get("checkpoint")
    if config.network.get("checkpoint") == FRESH:
        values["network.checkpoint"] = None
    weights_of = before[-1] if before and not artefacts and not own_weights else ""
    if "network.checkpoint" in artefacts:
        weights_of = config.network.checkpoint[1:-1]
    if weights_of:
        values["network.checkpoint"] = None
    return RunSpec(with_values(config, values), spec.command, name, weights_of)


def artefact_paths(
    stage: DictConfig, folder: Path, before: Sequence[str], name: str
) -> dict[str, Any]:
    """Key -> the path of an earlier stage's last checkpoint, where the value is that stage's name
    in braces; of a list, the whole of it. Raises `UserError` for a name that no stage before
    has."""

    def path_of(key: str, value: Any) -> Any:
        if not isinstance(value, str) or not BRACED.fullmatch(value):
            return value
        source = value[1:-1]
        if source not in before:
            problem = f"{key}={value} names no stage before it"
            raise UserError(f"stages.{name}", problem, nearest(source, before))
        return str(last_checkpoint(folder, source))

    paths: dict[str, Any] = {}
    for key, value in leaves(stage):
        entries = value if isinstance(value, list) else [value]
        found = [path_of(key, entry) for entry in entries]
        if found != entries:
            paths[key] = found if isinstance(value, list) else found[0]
    return paths


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a config that is no mapping; lists are values."""
    for key in node:
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, ListConfig):
            if not value._is_none() and not value._is_interpolation():
                yield f"{prefix}{key}", OmegaConf.to_container(value, resolve=False)
        elif not value._is_interpolation():
            yield f"{prefix}{key}", value._value()


@dataclass
class StagePlans:
    """text: the plans of all stages. merged: for a stage that lacks methods which changed the
    network before, their keys: it begins with weights into which they have been merged."""

    text: str
    merged: dict[str, list[str]]


def plan_stages(spec: RunSpec) -> StagePlans:
    """The plans of all stages. Raises `ConfigErrors` if one of them could not begin."""
    plans: list[str] = []
    errors: list[UserError] = []
    assemblies: dict[str, Assembly] = {}
    merged: dict[str, list[str]] = {}
    for stage in stages_of(spec):
        try:
            assembly = assemble(stage)
            plans.append(plan_stage(stage, assembly))
            before = assemblies.get(stage.weights_of)
            if before and (leaving := check_handover(before, assembly, stage.weights_of)):
                merged[stage.stage] = leaving
            assemblies[stage.stage] = assembly
        except UserError as refusal:
            errors += [error.within(f"stages.{stage.stage}") for error in refusal.errors]
    raise_all(errors)
    return StagePlans("\n".join(plans), merged)


def plan_stage(stage: RunSpec, assembly: Assembly) -> str:
    check_machine(assembly.trainer, assembly.precision)
    if stage.dry_run:
        assembly.datamodule.look()
    weights = f", begins with the weights of {stage.weights_of}" if stage.weights_of else ""
    plan = describe(assembly, assembly.meta_network(), trained=bool(stage.weights_of))
    return f"stage {stage.stage}{weights}\n\n{plan}"


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
    finished_changes = check_stages(spec, done, begun, plans.merged)
    # a stage that is refused at once leaves nothing that would stop the mended command
    with run_folder(folder):
        write_folder(spec, plans.text, finished_changes)
        run_each(spec, done, begun, plans.merged)
    last = list(spec.config.stages)[-1]
    return Result(done[str(last)])


def run_each(
    spec: RunSpec, done: Figures, begun: set[str], merged: Mapping[str, list[str]]
) -> None:
    """Run the stages that are not done; their metrics are added to `done`."""
    folder = spec.folder
    for stage in stages_of(spec):
        name = stage.stage
        if name in done:
            continue
        stage = with_weights(stage, folder, merged)
        if name in begun:
            stage = stage.having({"resume": resumable(str(folder / name))})
        else:
            # a stage that was killed before it saved anything begins anew
            rank_zero_only(clear)(folder / name)
        done[name] = run(stage, mergers(spec, name, merged)).metrics
        write_done(folder, done)


def begun_stages(spec: RunSpec) -> set[str]:
    """The stages of a run that is resumed that have a checkpoint."""
    if not spec.resume:
        return set()
    return {str(name) for name in spec.config.stages if has_checkpoint(spec.folder / str(name))}


def with_weights(stage: RunSpec, folder: Path, merged: Collection[str]) -> RunSpec:
    """The stage with the last weights of the one before, if it begins with them. merged: stages
    that begin with weights without deltas."""
    if not stage.weights_of:
        return stage
    path = last_checkpoint(folder, stage.weights_of)
    if stage.stage in merged:
        path = merged_weights(path, stage.stage)
    return stage.having({"network.checkpoint": str(path)})


def mergers(spec: RunSpec, name: str, merged: Mapping[str, list[str]]) -> list[MergedWeights]:
    """What writes the weights of a stage for those that lack some of its methods."""
    path = last_checkpoint(spec.folder, name)
    after = [stage.stage for stage in stages_of(spec) if stage.weights_of == name]
    return [
        MergedWeights(merged_weights(path, stage), merged[stage])
        for stage in after
        if stage in merged
    ]


def check_stages(
    spec: RunSpec, done: Figures, begun: set[str], merged: Collection[str]
) -> list[str]:
    """Raise `UserError` if stages that have begun had other settings, unless these are meant.
    Returns what finished stages keep, a line each; those that are under way take up the new
    settings."""
    lines: list[str] = []
    for stage in stages_of(spec):
        stage = with_weights(stage, spec.folder, merged)
        stage = stage.having({"resume": str(spec.folder / stage.stage)})
        if stage.stage in done:
            lines += finished_stage_lines(stage, spec.accepts_changes)
        elif stage.stage in begun:
            check_changes(resume_point(stage).differing, stage)
    return lines


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
