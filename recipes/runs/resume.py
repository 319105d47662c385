"""Whether a run can resume from a checkpoint, and with which settings: found out before anything is
written."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from datamodules.datamodule import StreamDataModule
from datamodules.fingerprint import data_changes
from foundation.errors import UserError
from recipes.checkpointing.files import LAST, find_checkpoint, load_checkpoint
from recipes.checkpointing.history import unpacked
from recipes.engine.recipe import Recipe
from recipes.runs.rates import NewRates, groups_fit, optimizer_misfit, stretched
from recipes.services.adopted import adoptable, adopted_names
from recipes.services.moments import moment_names
from recipes.setup.assemble import Assembly
from recipes.setup.changes import Change, Difference, differences, matches, parsed, plain
from recipes.setup.spec import RunSpec

logger = logging.getLogger(__name__)

MAX_STEPS = "trainer.max_steps"
ANEW = (
    "resume with the settings it had, or begin a new run with its weights alone: "
    "network.checkpoint=FILE"
)


def identity(config: DictConfig) -> dict[str, str]:
    """What a run and the one it resumes must have in common, in the user's words; every checkpoint
    carries it."""
    methods = sorted(str(key) for key in config.get("methods") or {})
    return {
        "methods": ", ".join(methods) or "none",
        "data.source": str(config.data.source._target_).rpartition(".")[2],
        "network.name": str(config.network.name),
        "parameters": "in parts (fsdp)" if config.trainer.strategy == "fsdp" else "whole",
        "optimizer": str(
            config.optimizer.get("name") or str(config.optimizer._target_).rpartition(".")[2]
        ),
    }


def check_identity(checkpoint: Mapping[str, Any], config: DictConfig) -> None:
    """Raise `UserError` if the checkpoint is of another recipe."""
    key = f"resume={config.resume}"
    saved_identity = checkpoint.get("identity") or {}
    for what, value in identity(config).items():
        if what in saved_identity and saved_identity[what] != value:
            raise UserError(
                key,
                f"made with {what}: {saved_identity[what]}, but this run has {value}",
                "resume with the same choices, or take only weights by network.checkpoint",
            )


def check_state(
    checkpoint: Mapping[str, Any], config: DictConfig, module: nn.Module, total_steps: int
) -> None:
    """Raise `UserError` if the checkpoint has other tensors, or nothing left to do."""
    key = f"resume={config.resume}"
    misfit = _misfit(checkpoint["state_dict"], module)
    if misfit:
        raise UserError(key, f"does not fit this run, {misfit}", "resume with the settings it had")
    done = int(checkpoint["global_step"])
    if done >= total_steps:
        steps = f"has done {done} steps and trainer.max_steps={total_steps}"
        raise UserError(key, f"{steps}, so nothing is left", "expected a larger trainer.max_steps")


def _misfit(saved: Mapping[str, Any], module: nn.Module) -> str:
    """The first difference in names or shapes, in words; empty where there is none."""
    own, adopted = module.state_dict(), set(adopted_names(module))
    moments = set(moment_names(module))
    if moments.isdisjoint(
        saved
    ):  # of a version that did not estimate them; its changed settings are reported
        own = {name: value for name, value in own.items() if name not in moments}
    for name in own:
        if name not in saved:
            return f"it has no '{name}'"
        if name in adopted and not adoptable(saved[name], own[name]):
            return f"'{name}' is {_kind(saved[name])} there and {_kind(own[name])} here"
        if name not in adopted and saved[name].shape != own[name].shape:
            return f"'{name}' is {list(saved[name].shape)} there and {list(own[name].shape)} here"
    return next((f"it has a '{name}' too many" for name in saved if name not in own), "")


def _kind(value: Tensor) -> str:
    """What must agree of a tensor that takes its shape from the checkpoint."""
    return f"{value.ndim}-dimensional {str(value.dtype).removeprefix('torch.')}"


# State in the checkpoint that would not follow a changed setting.
HELD = {
    "optimizer*": "the optimizer's state was made with it",
    "data.source*": "counts and tables belong to the samples",
    "data.labels_per_class": "counts and tables belong to the samples",
    "data.labels": "counts and tables belong to the samples",
    "data.labeled": "counts and tables belong to the samples",
    "data.imbalance*": "counts and tables belong to the samples",
    "data.label_noise": "counts and tables belong to the samples",
    "data.val_fraction": "counts and tables belong to the samples",
    "data.split_seed": "counts and tables belong to the samples",
    "network.freeze*": "the optimizer has the weights that trained",
    "methods.*.init*": "values that training began with",
    "methods.*.reinitialize": "values that training began with",
    "methods.static.weights": "a buffer of the method",
    "methods.class_balanced_loss.*": "a buffer of the method",
    "methods.tau_norm.tau": "a buffer of the method",
    "methods.noisy_student.teacher": "its targets are kept",
}
# set anew after the checkpoint, see `rates`
EFFECTIVE = (
    "optimizer.lr",
    "optimizer.lr_scaling",
    "optimizer.base_batch_size",
    "optimizer.weight_decay",
)


@dataclass(frozen=True)
class Resume:
    """Where a run resumes. path: the checkpoint. done: its steps. differing: settings that differ
    from the run's own. changes: all that were changed on the way, these among them."""

    path: Path
    checkpoint: Mapping[str, Any]
    done: int
    differing: list[Difference]
    changes: list[Change]

    def check(self, spec: RunSpec, assembly: Assembly, recipe: Recipe) -> None:
        """Raise `UserError` if this run cannot resume from here; says what a change does. A stage,
        and this very run, may have nothing left to train: it is evaluated."""
        may_be_complete = bool(spec.stage) or unfinished(spec.folder, self.path)
        total = assembly.trainer.max_steps + may_be_complete
        check_identity(self.checkpoint, spec.config)
        # a changed setting explains tensors that do not fit
        check_changes(self.differing, spec)
        check_state(self.checkpoint, spec.config, recipe, total)
        if self.differing and not groups_fit(self.checkpoint, recipe):
            problem = (
                f"{listed(self.differing)}: other parameters share a learning rate or a decay now, "
                "which the optimizer's state cannot follow"
            )
            raise UserError(f"resume={spec.resume}", problem, ANEW)
        misfit = optimizer_misfit(self.checkpoint, recipe)
        if misfit:
            problem = f"'{self.path}' is not a run of this version: {misfit}"
            raise UserError("resume", problem, "expected the optimizer's state of this run")
        for change in self.differing:
            if is_longer(change):
                tell(stretched(change.old, change.new, self.checkpoint, recipe, assembly.scheduler))
        meant = [change for change in self.differing if not is_longer(change)]
        if meant:
            tell(f"resume: settings changed from step {self.done} on: {listed(meant)}")

    def history(self, folder: Path) -> list[dict[str, Any]] | None:
        """The rows logged so far, if the checkpoint is of this very folder and has them: those of
        the first versions have not."""
        rows = self.checkpoint.get("history")
        own = self.path.resolve().is_relative_to(folder.resolve())
        return unpacked(rows) if own and rows is not None else None

    @property
    def callbacks(self) -> list[Callback]:
        return [NewRates()] if self.differing else []


def with_data(spec: RunSpec, data: StreamDataModule, resume: Resume | None) -> Resume | None:
    """What is resumed, once the data have been read and compared with those of its checkpoint; of
    a stage that begins, with those of the stage before. Raises `UserError` where they differ and
    nobody said that this is meant."""
    if resume is not None:
        origin, asked = resume.checkpoint.get("provenance") or {}, f"resume={spec.resume}"
        path, done = resume.path, resume.done
    elif spec.weights_of:
        # merged weights have no fingerprint of the data; last.ckpt in the same folder has one
        path, done = Path(spec.config.network.checkpoint).with_name(LAST), 0
        if not path.is_file():
            return resume  # weights that a program wrote
        origin, asked = load_checkpoint(str(path)).get("provenance") or {}, f"stages.{spec.stage}"
    else:
        return None
    if "fingerprint" not in origin or other_source(origin, spec, str(path)):
        return resume
    where = f"resume: '{path}'"
    found = data_changes(origin["fingerprint"], data.fingerprint(), data.sources(), where)
    if not found:
        return resume
    listed_changes = "; ".join(map(str, found))
    if not spec.accepts_changes:
        remedy = "restore them, or add accept_changes=true where the new ones are meant"
        problem = f"the data have changed since the checkpoint: {listed_changes}"
        raise UserError(asked, problem, remedy)
    tell(f"resume: data changed from step {done} on: {listed_changes}")
    entries = [Change(done, f"data ({d.part} part)", d.old, d.new) for d in found]
    return replace(resume, changes=[*resume.changes, *entries]) if resume else None


def other_source(origin: Mapping[str, Any], spec: RunSpec, path: str) -> bool:
    """Whether the checkpoint is of another data set by its settings: a stage may have one of its
    own, and to a run that resumes `check_changes` says it."""
    before = parsed(origin["config"], f"resume: '{path}'")
    differing = differences(before, plain(spec.config))
    return any(d.key.startswith("data.source") for d in differing)


def unfinished(folder: Path, checkpoint: Path) -> bool:
    """Whether the checkpoint is this very run's, which was stopped before it had been evaluated."""
    return (
        checkpoint.resolve().is_relative_to(folder.resolve())
        and not (folder / "metrics.json").is_file()
    )


@rank_zero_only
def tell(line: str) -> None:
    logger.warning("%s", line)


def resume_point(spec: RunSpec) -> Resume:
    """The checkpoint that `resume` names, and how this run differs from the one that wrote it."""
    assert spec.resume is not None, "only for a run that resumes"
    path, checkpoint = find_checkpoint(spec.resume), load_checkpoint(spec.resume)
    done = int(checkpoint["global_step"])
    origin = checkpoint.get("provenance") or {}
    source = f"resume: '{path}'"
    differing: list[Difference] = []
    if origin.get("config") is not None:
        differing = differences(parsed(origin["config"], source), plain(spec.config))
    # a run that asks for fewer steps than are done has nothing left, which is an error
    differing = [d for d in differing if d.key != MAX_STEPS or d.new >= done]
    earlier = [Change(**entry) for entry in origin.get("changes", [])]
    changes = [*earlier, *(Change.of(d, done) for d in differing)]
    return Resume(path, checkpoint, done, differing, changes)


def is_longer(difference: Difference) -> bool:
    return difference.key == MAX_STEPS and difference.new > difference.old


def listed(differing: Sequence[Difference]) -> str:
    return "; ".join(map(str, differing))


def check_changes(differing: Sequence[Difference], spec: RunSpec) -> None:
    """Raise `UserError` for settings that cannot change on the way, and for those that nobody said
    are meant."""
    key = f"resume={spec.resume}"
    meant = [d for d in differing if not is_longer(d)]
    held = [d for d in meant if matches(d.key, HELD) and d.key not in EFFECTIVE]
    if held:
        raise UserError(key, f"{listed(held)}: cannot change on the way", ANEW)
    if meant and not spec.accepts_changes:
        problem = f"settings differ from the checkpoint's: {listed(meant)}"
        remedy = "resume with the settings it had, or add accept_changes=true where the new ones"
        raise UserError(key, problem, f"{remedy} are meant")
