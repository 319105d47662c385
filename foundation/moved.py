"""Former paths of modules and former names of classes, which checkpoints, sweeps and users' files
contain.

`current_name` translates a dotted path. Importing a former path returns the present module, the
same object, and a module that has `__getattr__ = former_names(__name__)` resolves former names of
its classes, so that users' methods written before a move still load.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# Version 0.1 (commit 9a0c826) -> today.
MOVED = {
    "datamodules.devices": "foundation.devices",
    "datamodules.errors": "foundation.errors",
    "datamodules.randomness": "foundation.randomness",
    "methods.long_tail.classifier_retraining": "methods.long_tail.crt",
    "recipes.adopted": "recipes.services.adopted",
    "recipes.annotations": "recipes.config.signatures",
    "recipes.architecture": "recipes.predict.architecture",
    "recipes.assembly": "recipes.setup.assemble",
    "recipes.batchnorm": "recipes.step.batchnorm",
    "recipes.changes": "recipes.setup.changes",
    "recipes.checkpoints": "recipes.checkpointing.writing",
    "recipes.clustering": "recipes.services.clustering",
    "recipes.collector": "foundation.fast_imports",
    "recipes.complaints": "recipes.config.messages",
    "recipes.composition": "recipes.contract.composition",
    "recipes.criterion": "recipes.step.criterion",
    "recipes.evaluated": "recipes.engine.reported",
    "recipes.finite": "recipes.engine.finite",
    "recipes.forward": "recipes.step.forward",
    "recipes.gates": "recipes.step.gates",
    "recipes.gather": "foundation.distributed",
    "recipes.groups": "recipes.config.groups",
    "recipes.hardware": "recipes.engine.hardware",
    "recipes.help": "recipes.cli.help",
    "recipes.hooks": "recipes.engine.lean",
    "recipes.inputs": "recipes.predict.inputs",
    "recipes.jobs": "recipes.cli.multirun",
    "recipes.loading": "recipes.predict.loading",
    "recipes.meters": "recipes.engine.meters",
    "recipes.method": "recipes.contract.method",
    "recipes.moments": "recipes.services.moments",
    "recipes.neighbours": "recipes.services.neighbors",
    "recipes.optimizer_makers": "recipes.optimization.factory",
    "recipes.optimizers": "recipes.optimization.optimizers",
    "recipes.options": "recipes.config.options",
    "recipes.overrides": "recipes.config.overrides",
    "recipes.paths": "recipes.checkpointing.files",
    "recipes.place": "recipes.runs.run_folder",
    "recipes.plain_yaml": "recipes.config.plain_yaml",
    "recipes.plan": "recipes.runs.plan",
    "recipes.predictor": "recipes.predict.predictor",
    "recipes.provenance": "recipes.runs.provenance",
    "recipes.ramps": "recipes.step.ramps",
    "recipes.rates": "recipes.runs.rates",
    "recipes.recipe": "recipes.engine.recipe",
    "recipes.report.atomic": "foundation.files",
    "recipes.report.collect": "recipes.runs.collect",
    "recipes.report.console": "recipes.loggers.console",
    "recipes.resuming": "recipes.runs.resume",
    "recipes.retrieval": "recipes.evaluation.retrieval",
    "recipes.run": "recipes.runs.run",
    "recipes.schedulers": "recipes.optimization.schedulers",
    "recipes.settings": "recipes.engine.trainer",
    "recipes.sharding": "recipes.engine.sharding",
    "recipes.stages": "recipes.runs.stages",
    "recipes.statistics": "recipes.services.statistics",
    "recipes.teacher": "recipes.services.teacher",
    "recipes.termination": "recipes.checkpointing.preemption",
    "recipes.terms": "recipes.step.terms",
    "recipes.trust": "recipes.predict.trust",
    "recipes.updates": "recipes.optimization.factory",
    "recipes.validation": "recipes.config.validation",
    # between 0.1 and today
    "recipes.runs.assembly": "recipes.setup.assemble",
    "recipes.runs.batch_checks": "recipes.setup.batch_checks",
    "recipes.runs.best_checkpoint": "recipes.checkpointing.best",
    "recipes.runs.changes": "recipes.setup.changes",
    "recipes.runs.checked_form": "recipes.checkpointing.checked",
    "recipes.runs.checkpoint_files": "recipes.checkpointing.files",
    "recipes.runs.checkpoint_form": "recipes.checkpointing.form",
    "recipes.runs.checkpoints": "recipes.checkpointing.writing",
    "recipes.runs.folder_files": "recipes.checkpointing.folder_files",
    "recipes.runs.history": "recipes.checkpointing.history",
    "recipes.runs.length": "recipes.setup.length",
    "recipes.runs.machine": "recipes.setup.machine",
    "recipes.runs.monitor": "recipes.setup.monitor",
    "recipes.runs.network_checks": "recipes.setup.network_checks",
    "recipes.runs.parts": "recipes.setup.parts",
    "recipes.runs.patience": "recipes.setup.patience",
    "recipes.runs.precision": "recipes.setup.precision",
    "recipes.runs.preemption": "recipes.checkpointing.preemption",
    "recipes.runs.radii": "recipes.setup.radii",
    "recipes.runs.remarks": "recipes.setup.remarks",
    "recipes.runs.spec": "recipes.setup.spec",
    "recipes.runs.title": "recipes.setup.title",
}


# Classes and functions: present path of the module -> former name -> present name.
RENAMED = {
    "methods.adversarial.robustness": {
        "UnderFGSM": "FGSMRobustness",
        "UnderMIFGSM": "MIFGSMRobustness",
        "UnderPGD": "PGDRobustness",
        "UnderSquare": "SquareRobustness",
    },
    "methods.peft.surgeon": {"Surgeon": "PEFTMethod"},
}


def current_name(path: str) -> str:
    """The present dotted path of a module, or of a class or function in one."""
    if path in MOVED:
        return MOVED[path]
    module, _, name = path.rpartition(".")
    if not module:
        return path
    module = MOVED.get(module, module)
    return f"{module}.{RENAMED.get(module, {}).get(name, name)}"


def former_names(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module with renamed classes: former names give the present class."""

    def find(name: str) -> Any:
        present = RENAMED[module].get(name)
        if present is None:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        return getattr(sys.modules[module], present)

    return find


def with_current_names(tree: Any) -> Any:
    """A config of plain containers with the present names in its `_target_`s."""
    if isinstance(tree, list):
        return [with_current_names(entry) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    renamed = {name: with_current_names(value) for name, value in tree.items()}
    if isinstance(renamed.get("_target_"), str):
        renamed["_target_"] = current_name(renamed["_target_"])
    return renamed


class OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the paths in `MOVED`. It is the last finder: a module that exists is found first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec, which the import system has overwritten; the module has
        already been executed under its present name."""
        own: Any = getattr(module.__spec__, "loader_state", None)
        module.__spec__ = own


def install() -> None:
    """Make former paths importable, once."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
