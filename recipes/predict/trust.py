"""Validation of untrusted configs: only classes of Roux, at keys where they belong, are called.

A checkpoint names the classes of its run, and it may come from an unknown source.
`check_run_config` is the only entry: the text is read as plain values (`plain_yaml`), every
`_target_` is compared with `PLACES` as text, and only then a module of Roux is imported and the
class and its arguments are checked.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError
from recipes.config.plain_yaml import parse_plain
from recipes.config.renamed import with_current_keys
from recipes.config.validation import HYDRA_KEYS, join, targets, validate
from recipes.predict.places import Place, place_of

HOME = Path(__file__).resolve().parent.parent.parent  # the folder of Roux's packages
OURS = ("recipes", "methods", "datamodules")
HOUSE = (*OURS, "foundation")
NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)


# keys that change how Hydra calls a target, with their values in Roux's own configs
ALLOWED_HYDRA_KEYS = {"network._convert_": "all"}
NEEDED = ("seed", "supervised_weight", "monitor", "checkpoint")
SINGLE = ("network", "optimizer", "scheduler", "trainer", "checkpoint", "data", "data.source")


def check_run_config(text: Any, path: Path, trust: bool = False) -> DictConfig:
    """The config of a run from its file, with only classes of Roux at their keys.

    trust: other targets are allowed too; they are listed on stderr before they are imported.

    Raises UserError, one line with the file and the key.
    """
    source = f"'{path}'"
    try:
        tree: Any = with_current_keys(plain_tree(text, source))
    except UserError as error:
        raise UserError("run", str(error)) from error
    drop_training_parts(tree)
    config = OmegaConf.create(tree)
    for problem in [*hydra_problems(tree, ""), *missing_problems(tree)]:
        raise UserError("run", f"{source}: {problem}")
    # all names are compared before the first module is imported
    named = [(key, node["_target_"]) for key, node in targets(tree, "")]
    foreign: list[str] = []
    for find_problem in (name_problem, object_problem):
        for key, target in named:
            place = f"{target} ({key})"
            problem = "" if place in foreign else find_problem(key, target)
            if problem and not trust:
                raise UserError("run", f"{source}: {join(key, '_target_')} calls {problem}")
            if problem:
                foreign.append(place)
    if foreign:
        print(
            f"run: '{path}' is trusted and imports {', '.join(foreign)}",
            file=sys.stderr,
            flush=True,
        )
    errors = validate(config)
    if errors:
        raise UserError("run", f"{source}: {errors[0]}")
    return config


def drop_training_parts(tree: dict[str, Any]) -> None:
    """Take out, in place, what only training calls, so that a stranger's code in it is neither
    imported nor asked about: callbacks, loggers, a profiler, and the datasets that a loader
    reads."""
    tree["callbacks"] = None
    drop_foreign_loggers(tree.get("logger"))
    trainer = tree.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("profiler"), dict):
        trainer["profiler"] = None
    views = select(tree, "data.views")
    for name, view in views.items() if isinstance(views, dict) else ():
        # evaluation sees `raw`; transforms of other views are for training
        if name != "raw" and isinstance(view, dict) and isinstance(view.get("transform"), dict):
            view["transform"] = None
    further = select(tree, "data.sources")
    sources = [select(tree, "data.source")]
    for value in further.values() if isinstance(further, dict) else ():
        sources.append(value.get("source", value) if isinstance(value, dict) else None)
    for source in sources:
        drop_datasets(source)


def drop_foreign_loggers(loggers: Any) -> None:
    """Take the loggers that are not of Roux out, in place. Whatever names Roux is checked."""
    for name, node in list(loggers.items()) if isinstance(loggers, dict) else ():
        target = node.get("_target_") if isinstance(node, dict) else None
        if not (isinstance(target, str) and NAME.fullmatch(target)):
            continue
        if target.split(".")[0] not in HOUSE:
            del loggers[name]


def drop_datasets(loader: Any) -> None:
    """Take the datasets out of the node of a loader, in place."""
    for key, value in loader.items() if isinstance(loader, dict) else ():
        if isinstance(value, dict) and "_target_" in value:
            loader[key] = None


def plain_tree(text: Any, source: str) -> dict[str, Any]:
    """The config of a file as plain containers."""
    tree: Any = OmegaConf.to_container(parse_plain(text, source), resolve=False)
    return tree


def hydra_problems(node: Any, key: str) -> Iterator[str]:
    """Keys that change how Hydra calls a target, anywhere in the config."""
    if isinstance(node, dict):
        for name, child in node.items():
            below = join(key, name)
            if name in HYDRA_KEYS - {"_target_"} and ALLOWED_HYDRA_KEYS.get(below) != child:
                yield f"{below}: found {child!r}; expected no such key in the config of a run"
            yield from hydra_problems(child, below)
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from hydra_problems(child, f"{key}[{i}]")


def missing_problems(tree: dict[str, Any]) -> Iterator[str]:
    """Missing keys that every run has, and nodes without a `_target_`."""
    for name in NEEDED:
        if name not in tree:
            yield f"{name}: is missing; expected the complete config of a run"
    for key in SINGLE:
        yield from node_problems(key, select(tree, key))
    for section in ("methods", "evaluate", "logger", "data.views"):
        children = select(tree, section)
        if children is None:
            continue
        if not isinstance(children, dict):
            yield f"{section}: found {children!r}; expected a mapping"
            continue
        for name, child in children.items():
            yield from node_problems(join(section, name), child)
    yield from node_problems("data.text", select(tree, "data.text"))


def node_problems(key: str, node: Any) -> Iterator[str]:
    place = place_of(key)
    if node is None and place is not None and place.optional:
        return
    if not isinstance(node, dict) or "_target_" not in node:
        yield f"{key}: found {str(node)[:60]!r}; expected a mapping with _target_"


def select(tree: Any, key: str) -> Any:
    """The value at a dotted key, None if there is none."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def name_problem(key: str, target: Any) -> str:
    """Why a name is not allowed at a key, judged by its text; nothing is imported."""
    if not isinstance(target, str) or not NAME.fullmatch(target):
        return f"{str(target)[:60]!r}, which is no name of a class"
    if target.split(".")[0] not in OURS:
        return f"'{target}', which is not part of Roux; if you trust it, add trust=true"
    place = place_of(key)
    if place is None:
        return f"'{target}', where a run of Roux calls nothing; expected a plain value"
    if not place.names(target):
        return misplaced(target, place)
    module = target.rpartition(".")[0]
    if not is_own_module(module):
        return f"'{target}', and '{module}' is no module of Roux; if you trust it, add trust=true"
    return ""


def is_own_module(module: str) -> bool:
    """Whether the import would load a file of this installation of Roux: a folder `methods` in the
    working directory could shadow it. Nothing is imported."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    if Path(spec.origin).resolve() != HOME / top / "__init__.py":
        return False
    file = HOME.joinpath(top, *rest)
    found = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return found.is_file() and found.resolve().is_relative_to(HOME / top)


def object_problem(key: str, target: str) -> str:
    """Why the object of a name is not allowed at a key. Imports the module, which is one of
    Roux's."""
    place = place_of(key)
    assert place is not None, "the name was checked before"
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if found is None:
        return f"'{target}', which this version of Roux does not have; expected {place.expected}"
    bases = tuple(resolved(base) for base in place.bases)
    classes = tuple(base for base in bases if inspect.isclass(base))
    if not bases and inspect.isclass(found):
        classes = (object,)
    if found in bases or (inspect.isclass(found) and classes and issubclass(found, classes)):
        home = str(found.__module__)
        own = any(home == known or home.startswith(f"{known}.") for known in place.modules)
        return "" if own else misplaced(target, place)
    return misplaced(target, place)


def misplaced(target: str, place: Place) -> str:
    return f"'{target}', which does not belong there; expected {place.expected}"


def resolved(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
