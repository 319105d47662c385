"""What stages leave for later ones, and the values in braces that name it.

    {NAME}            the last checkpoint of the run NAME
    {NAME.ARTIFACT}   a file of it: last, best, metrics, config, or what a method or a program left

A value of a stage's config, or an entry of a list, may be one of these; it becomes a path.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from foundation.errors import UserError, nearest
from recipes.contract.program import Program
from recipes.setup.assemble import Assembly

BRACED = re.compile(r"\{(?P<stage>[\w\-]+)(?:\.(?P<artifact>\w+))?\}")
CHECKPOINTS = "checkpoints"
UNKNOWN = Path("{unknown}")  # of a stage whose plan has an error
WEIGHTS = "weights"  # the artifact of a program with which the next stage begins


@dataclass(frozen=True)
class Left:
    """What a stage leaves. files: by artifact. checkpoint: what its name alone means; None for a
    program. weights: where the next stage begins; None if it leaves none. unknown: its plan has an
    error, so what later stages need of it is not checked."""

    files: Mapping[str, Path]
    checkpoint: Path | None = None
    weights: Path | None = None
    unknown: bool = False


@dataclass
class Before:
    """What the stages before one leave, in their order. A stage of a loop is there by its name
    without a number as well: then it is the last one."""

    left: dict[str, Left] = field(default_factory=dict)

    def add(self, name: str, base: str, left: Left) -> None:
        for key in dict.fromkeys((base, name)):
            # the newest last
            self.left.pop(key, None)
            self.left[key] = left

    @property
    def weights_of(self) -> str:
        """The newest stage with weights to begin with; empty if there is none."""
        having = [name for name, left in self.left.items() if left.weights]
        return having[-1] if having else ""


def last_checkpoint(folder: Path, stage: str) -> Path:
    """Where a run leaves its weights."""
    return folder / stage / CHECKPOINTS / "last.ckpt"


def left_by_run(folder: Path, name: str, assembly: Assembly) -> Left:
    """folder: of the recipe."""
    own = folder / name
    last = last_checkpoint(folder, name)
    files = {"last": last, "metrics": own / "metrics.json", "config": own / "config.yaml"}
    # whether the data have a validation part shows once they are read
    files["best"] = last.with_name("best.ckpt")
    for method in assembly.composition.implementing("save_artifacts"):
        files |= {artifact: last.with_name(file) for artifact, file in method.artifacts.items()}
    return Left(files, last, last)


def left_by_program(folder: Path, name: str, program: Program) -> Left:
    """folder: of the recipe."""
    files = {artifact: folder / name / file for artifact, file in program.artifacts.items()}
    return Left(files, weights=files.get(WEIGHTS))


# -- values in braces ------------------------------------------------------------------------------
def artifact_paths(stage: DictConfig, before: Before, name: str) -> dict[str, Any]:
    """Key -> its value with paths, of every value in which an artifact is named. Raises `UserError`
    for one that no stage before leaves."""
    paths: dict[str, Any] = {}
    for key, value in leaves(stage):
        if any(BRACED.fullmatch(text) for text in texts_of(value)):
            paths[key] = resolved(value, before, f"{key}={shown(value)}", name)
    return paths


def resolved(value: Any, before: Before, place: str, name: str) -> Any:
    if isinstance(value, list):
        return [resolved(entry, before, place, name) for entry in value]
    match = BRACED.fullmatch(value) if isinstance(value, str) else None
    return str(path_of(match, before, place, name)) if match else value


def path_of(match: re.Match[str], before: Before, place: str, name: str) -> Path:
    stage, artifact = match["stage"], match["artifact"]
    key = f"stages.{name}"
    if stage not in before.left:
        raise UserError(key, f"{place} names no stage before it", no_stage(stage, before))
    left = before.left[stage]
    if left.unknown:
        return UNKNOWN
    if artifact is None and left.checkpoint is None:
        made = ", ".join(f"{{{stage}.{own}}}" for own in left.files)
        problem = f"{place} names a program, which leaves no checkpoint"
        raise UserError(key, problem, f"expected one of its artifacts: {made or 'it has none'}")
    if artifact is None:
        assert left.checkpoint is not None
        return left.checkpoint
    if artifact not in left.files:
        problem = f"{place}: the stage {stage} leaves no '{artifact}'"
        raise UserError(key, problem, nearest(artifact, left.files))
    return left.files[artifact]


def no_stage(stage: str, before: Before) -> str:
    if stage == "i":
        return "{i}, the number of a round, is known inside a loop alone"
    if stage == "previous":
        return "there is none before the first stage"
    return nearest(stage, before.left)


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from texts_of(entry)
    elif isinstance(value, str):
        yield value


def shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return str(value)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a config that is no mapping."""
    for key in node:
        value = node._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, ListConfig) and not value._is_none():
            yield f"{prefix}{key}", OmegaConf.to_container(value)
        elif not value._is_interpolation():
            yield f"{prefix}{key}", value._value()
