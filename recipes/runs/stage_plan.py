"""The plan of a recipe of stages: each stage's config with what it takes from earlier ones, and
everything that could not begin, found before the first stage does."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from foundation.awaited import awaiting
from foundation.errors import UserError, raise_all
from recipes.runs.artifacts import (
    UNKNOWN,
    Before,
    Left,
    artifact_paths,
    leaves,
    left_by_program,
    left_by_run,
    shown,
)
from recipes.runs.loops import Place, places_of
from recipes.runs.plan import describe
from recipes.runs.programs import program_of, program_plan
from recipes.runs.stage_weights import check_handover
from recipes.setup.assemble import Assembly, assemble
from recipes.setup.machine import check_machine
from recipes.setup.spec import RunSpec, with_values

WEIGHTS = "network.checkpoint"
FRESH = "fresh"  # as a stage's network.checkpoint: the weights that a run without one has


@dataclass
class StagePlans:
    """text: the plans of all stages. left: what each leaves. merged: for a stage that lacks methods
    which changed the network before, their keys: it begins with weights into which they have been
    merged. begins_with: the stage with whose weights it does. places: of the stages in loops."""

    text: str = ""
    left: dict[str, Left] = field(default_factory=dict)
    merged: dict[str, list[str]] = field(default_factory=dict)
    begins_with: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def base(self, name: str) -> str:
        """The name of a stage without the number of its round."""
        return self.places[name].base if name in self.places else name

    def before(self, names: Sequence[str]) -> Before:
        """What these stages leave."""
        before = Before()
        for name in names:
            before.add(name, self.base(name), self.left[name])
        return before


def is_program(config: DictConfig) -> bool:
    return config.get("program") is not None


def stage_spec(spec: RunSpec, name: str, before: Before, planning: bool = False) -> RunSpec:
    """The spec of one stage, with a folder of its own and paths for what it names. planning: there
    are no weights to begin with yet."""
    config = spec.config.stages[name]
    artifacts = artifact_paths(config, before, name)
    values = artifacts | {
        "run_dir": str(Path(spec.config.run_dir) / name),
        "dry_run": spec.config.dry_run,
        "resume": None,
    }
    if is_program(config):
        return RunSpec(with_values(config, values), spec.command, name)
    if config.network.get("checkpoint") == FRESH:
        values[WEIGHTS] = None
    weights_of = before.weights_of if begins_with_weights(spec, config, bool(artifacts)) else ""
    if weights_of:
        values[WEIGHTS] = str(before.left[weights_of].weights)
    if WEIGHTS in artifacts:
        weights_of = config.network.checkpoint[1:-1].partition(".")[0]
    if weights_of and planning:
        values[WEIGHTS] = None
    return RunSpec(with_values(config, values), spec.command, name, weights_of)


def begins_with_weights(spec: RunSpec, config: DictConfig, names_artifacts: bool) -> bool:
    """Whether a run takes the weights of the stage before unasked: it names no others, and nothing
    that an earlier stage left."""
    own_weights = config.network.get("checkpoint") != spec.config.network.get("checkpoint")
    return not names_artifacts and not own_weights


# -- planning --------------------------------------------------------------------------------------
def plan_stages(spec: RunSpec) -> StagePlans:
    """The plans of all stages. Raises `ConfigErrors` if one of them could not begin."""
    plans = StagePlans(places=places_of(spec.config))
    errors: list[UserError] = []
    texts: list[str] = []
    assemblies: dict[str, Assembly] = {}
    names = list(map(str, spec.config.stages))
    for number, name in enumerate(names):
        known = [other for other in names[:number] if other in plans.left]
        before = plans.before(known)
        place = plans.places.get(name)
        if place is not None and place.first:
            texts.append(f"{place.text}\n")
        if place is not None and name != place.twin and plans.left[place.twin].unknown:
            plans.left[name] = Left({}, unknown=True)
            continue  # one mistake is one line, however many rounds have it
        try:
            stage = stage_spec(spec, name, before, planning=True)
            files = [path for left in before.left.values() for path in left.files.values()]
            with awaiting([*files, UNKNOWN]):
                texts.append(plan_stage(spec, stage, plans, assemblies))
        except UserError as refusal:
            place_of = f"stages.{name}"
            errors += [
                error if error.key.startswith(place_of) else error.within(place_of)
                for error in refusal.errors
            ]
            plans.left[name] = Left({}, unknown=True)
    raise_all(errors)
    plans.text = "\n".join(texts)
    return plans


def plan_stage(
    spec: RunSpec, stage: RunSpec, plans: StagePlans, assemblies: dict[str, Assembly]
) -> str:
    """The plan of one stage; what it leaves is added to the plans."""
    name = stage.stage
    if is_program(stage.config):
        program = program_of(stage)
        plans.left[name] = left_by_program(spec.folder, name, program)
        written = RunSpec(spec.config.stages[name], stage=name)
        return program_plan(written, program)
    assembly = assemble(stage)
    plans.left[name] = left_by_run(spec.folder, name, assembly)
    text = plan_run(spec, stage, assembly, plans)
    if stage.weights_of:
        plans.begins_with[name] = stage.weights_of
    before = assemblies.get(stage.weights_of)
    if before and (leaving := check_handover(before, assembly, stage.weights_of)):
        plans.merged[name] = leaving
    assemblies[name] = assemblies[plans.base(name)] = assembly
    return text


def plan_run(spec: RunSpec, stage: RunSpec, assembly: Assembly, plans: StagePlans) -> str:
    check_machine(assembly.trainer, assembly.precision)
    if stage.dry_run:
        assembly.datamodule.look()
    network = assembly.meta_network()
    weights = f", begins with the weights of {stage.weights_of}" if stage.weights_of else ""
    place = plans.places.get(stage.stage)
    if place is not None and place.number > 1:
        return (
            f"stage {stage.stage}: as {place.twin}{but(spec, stage.stage, place.twin)}{weights}\n"
        )
    plan = describe(assembly, network, trained=bool(stage.weights_of))
    return f"stage {stage.stage}{weights}\n\n{plan}"


def but(spec: RunSpec, name: str, twin: str) -> str:
    """In which settings a round differs from the first one, as they are written."""
    own = dict(leaves(spec.config.stages[name]))
    first = dict(leaves(spec.config.stages[twin]))
    own.pop("run_dir")  # may have the time in it
    changed = [f"{key}={shown(value)}" for key, value in own.items() if first.get(key) != value]
    return f", {', '.join(changed)}" if changed else ""
