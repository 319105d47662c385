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
    "recipes.assembly": "recipes.runs.assembly",
    "recipes.batchnorm": "recipes.step.batchnorm",
    "recipes.changes": "recipes.runs.changes",
    "recipes.checkpoints": "recipes.runs.checkpoints",
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
    "recipes.paths": "recipes.runs.checkpoint_files",
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
    "recipes.termination": "recipes.runs.preemption",
    "recipes.terms": "recipes.step.terms",
    "recipes.trust": "recipes.predict.trust",
    "recipes.updates": "recipes.optimization.factory",
    "recipes.validation": "recipes.config.validation",
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
