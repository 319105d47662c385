"""Where modules were in earlier versions: checkpoints, sweeps and users' own files name them by
path.

`current_name` gives today's path of a class. An import of an old path gives the module of today,
the same object, so that methods of users that were written before a move still load.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Version 0.1 (commit 9a0c826) -> today.
MOVED = {
    "datamodules.devices": "foundation.devices",
    "datamodules.errors": "foundation.errors",
    "datamodules.randomness": "foundation.randomness",
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


def current_name(path: str) -> str:
    """Today's dotted path of a module, or of something in one."""
    module, _, name = path.rpartition(".")
    if path in MOVED:
        return MOVED[path]
    return f"{MOVED[module]}.{name}" if module in MOVED else path


def with_current_names(tree: Any) -> Any:
    """A config as plain containers, whose `_target_`s are named as today."""
    if isinstance(tree, list):
        return [with_current_names(entry) for entry in tree]
    if not isinstance(tree, dict):
        return tree
    renamed = {name: with_current_names(value) for name, value in tree.items()}
    if isinstance(renamed.get("_target_"), str):
        renamed["_target_"] = current_name(renamed["_target_"])
    return renamed


class OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports of paths in `MOVED`. It stands last: a module that exists is found before."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: it has been imported under its own name, which the import system has
        written over."""
        own: Any = getattr(module.__spec__, "loader_state", None)
        module.__spec__ = own


def install() -> None:
    """Let old paths be imported, once."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())
