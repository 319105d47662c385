"""Packages that are loaded when something of them is used, not when they are imported.

Lightning needs two classes of torchmetrics, whose `__init__` imports scipy, matplotlib, torchvision
and transformers where they are installed: three seconds of a start. Here its packages are modules
without content at first. A class that is listed comes from the file that defines it; whatever else
is asked for loads the whole package, as if it had been imported in the usual way.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from types import ModuleType
from typing import Any

# package -> its names that need no other part of it, with the modules that define them
OWN_MODULES: dict[str, dict[str, str]] = {
    "torchmetrics": {
        "Metric": "torchmetrics.metric",
        "MetricCollection": "torchmetrics.collections",
        "SumMetric": "torchmetrics.aggregation",
    },
    "torchmetrics.functional": {},
    "torchmetrics.classification": {
        "MulticlassConfusionMatrix": "torchmetrics.classification.confusion_matrix"
    },
}
# of matplotlib, which draws nothing before the end of a run: types of annotations, a function
PLOT = "torchmetrics.utilities.plot"
PLOT_TYPES = ("_AX_TYPE", "_PLOT_OUT_TYPE", "_CMAP_TYPE")


def install() -> None:
    """Defer these packages in this process; once is enough."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Finder(MetaPathFinder):
    """Finds the deferred modules where Python would, and gives them another loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in OWN_MODULES and fullname != PLOT:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Deferred(spec.loader)
        return spec


class Deferred(Loader):
    """Loads a module at the first use of one of its names."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        # inspect and pkgutil ask the loader of a module for its source
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        def load() -> None:
            del module.__getattr__  # type: ignore[attr-defined]
            self.loader.exec_module(module)

        def find(name: str) -> Any:
            return found(module, name, load)

        module.__getattr__ = find  # type: ignore[method-assign]


def found(module: ModuleType, name: str, load: Callable[[], None]) -> Any:
    """A name of a module that is not loaded yet. load: loads it."""
    package = module.__name__
    if name == "__version__":
        return version(package)
    if name == "_logger":
        return logging.getLogger(package)
    # what walks through all modules asks for such names: __warningregistry__, __wrapped__
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    if package == PLOT:
        return plot_name(module, name, load)
    if name in OWN_MODULES[package]:
        # torchmetrics.metric imports it, and it torchmetrics.metric: this is the order that works
        importlib.import_module("torchmetrics.utilities")
        value = getattr(importlib.import_module(OWN_MODULES[package][name]), name)
    else:
        load()
        value = getattr(module, name)
    return value


def plot_name(module: ModuleType, name: str, load: Callable[[], None]) -> Any:
    """A type as `Any`; a function as one that loads the module when it is called."""
    if name in PLOT_TYPES:
        return Any

    def call(*args: Any, **kwargs: Any) -> Any:
        if "__getattr__" in vars(module):
            load()
        return getattr(module, name)(*args, **kwargs)

    return call
