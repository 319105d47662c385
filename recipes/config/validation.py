"""One pass over a composed config that finds all errors at once, one line each, before anything is
built.

Every node with `_target_` is compared with the signature of what it names: unknown and missing
arguments, types, ranges. Interpolations that do not resolve and values left open (`???`) are errors
too. A line reads

    methods.fixmatch.tau: got 1.5, expected a number between 0 and 1

Some arguments are not the user's to give: positional-only ones and those in `SUPPLIED` come from
the engine, and a node with `_partial_: true` may leave any open."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import Field

from foundation.errors import UserError, did_you_mean, first_line, nearest, nearest_name
from foundation.types import Seed
from recipes.config.belonging import place_errors
from recipes.config.keys import all_keys, join
from recipes.config.signatures import (
    UNKNOWN,
    Signature,
    describe,
    find_target,
    fits,
    hint,
    signature,
)
from recipes.config.unusable import overlong, shown, unusable

HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
SUPPLIED = {"info", "tasks"}
ROOT: dict[str, Any] = {
    "seed": Seed,
    "run_dir": Annotated[str, Field(min_length=1)],
    "dry_run": bool,
    "resume": str | None,
    "accept_changes": bool,
    "recipe": str,
    "chosen": dict[str, str],
    "stages": dict[str, list[str] | dict[str, Any]] | None,
    "monitor": str | None,
    "supervised_weight": Annotated[float, Field(ge=0)],
}
SECTIONS = (
    "data",
    "network",
    "optimizer",
    "scheduler",
    "trainer",
    "logger",
    "methods",
    "evaluate",
    "checkpoint",
    "callbacks",
)
OPTIONAL = ("callbacks",)  # sections that may be null
REQUIRED = ("data", "network", "optimizer", "scheduler", "trainer")


REFERENCE = re.compile(r"\$\{([\w.]+)\}")
RESOLVING = "resolving interpolation: "  # OmegaConf's words before the reason


class Broken:
    """Stands for a value that did not resolve; its error is noted where it was met."""

    def __repr__(self) -> str:
        return "an unresolved value"


BROKEN = Broken()


def validate(config: DictConfig) -> list[UserError]:
    """All errors of a composed config (without Hydra's own node); empty if it is sound."""
    errors: list[UserError] = []
    tree = plain(config, "", errors)
    errors += _root_errors(tree)
    for name in REQUIRED:
        if name not in tree:
            errors.append(UserError(name, "is missing", f"choose one by {name}=NAME"))
    for key in [name for name in tree if name not in ROOT]:
        for path, node in targets(tree[key], str(key)):
            errors += target_errors(path, node)
    errors = list({str(error): error for error in errors}.values())
    return without_copies(errors, copies(config))


def copies(config: DictConfig) -> dict[str, str]:
    """key -> the key that its value is taken from, by an interpolation."""
    found: dict[str, str] = {}
    for key in all_keys(config):
        parent, _, name = key.rpartition(".")
        holder = OmegaConf.select(config, parent) if parent else config
        if holder is None:
            continue  # a name with a dot, as of a layer
        node: Any = holder._get_node(name)
        match = REFERENCE.fullmatch(str(node._value())) if node._is_interpolation() else None
        if match:
            found[key] = match[1]
    return found


def without_copies(errors: list[UserError], source_of: dict[str, str]) -> list[UserError]:
    """The errors without those of values that are taken from a key with an error of its own: one
    mistake is one line, however many settings have the value."""
    wrong = {error.key for error in errors}
    return [error for error in errors if source_of.get(error.key) not in wrong]


def plain(node: Any, key: str, errors: list[UserError]) -> Any:
    """The node as dicts, lists and values, every interpolation resolved; what does not resolve is
    noted."""
    if not isinstance(node, Container):
        return node
    if node._is_none():
        return None
    if isinstance(node, DictConfig):
        return {name: _child(node, name, join(key, name), errors) for name in node}
    assert isinstance(node, ListConfig)
    return [_child(node, i, f"{key}[{i}]", errors) for i in range(len(node))]


def _child(node: Any, name: Any, key: str, errors: list[UserError]) -> Any:
    try:
        return plain(node[name], key, errors)
    except MissingMandatoryValue:
        errors.append(UserError(key, "has no value yet", f"give one: {key}=…"))
    except OmegaConfBaseException as error:
        raw: Any = OmegaConf.to_container(node, resolve=False)
        errors.append(_unresolved(node._get_root(), key, str(raw[name]), error))
    return BROKEN


def _unresolved(root: Any, key: str, text: str, error: OmegaConfBaseException) -> UserError:
    gap = null_behind(root, text)
    if gap:
        # one line, however many values are taken from there
        here = key.rpartition(".")[0]
        return UserError(
            gap, f"is null, and {here} takes its values from there", "expected a mapping"
        )
    # OmegaConf names the class of the error first
    reason = first_line(error).rpartition(RESOLVING)[2]
    return UserError(key, f"'{text}' does not resolve: {reason}")


def null_behind(root: Any, text: str) -> str:
    """The null that an interpolation looks into: `a.b` for `${a.b.c}` where a.b is null; empty
    where there is none."""
    interpolation = REFERENCE.fullmatch(text)
    parts = interpolation[1].split(".") if interpolation else []
    for length in range(1, len(parts)):
        key = ".".join(parts[:length])
        if OmegaConf.select(root, key, default=BROKEN) is None:
            return key
    return ""


def targets(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All nodes with a `_target_` at or below a node, each with its key."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, child in node.items():
            yield from targets(child, join(key, name))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from targets(child, f"{key}[{i}]")


def target_errors(key: str, node: dict[str, Any]) -> list[UserError]:
    """Errors of one node against the signature of its target; nodes below it are looked at on their
    own."""
    target = node["_target_"]
    if not isinstance(target, str):
        problem = f"got {target!r}, expected the dotted path of a class or function"
        return [UserError(f"{key}._target_", problem)]
    try:
        found = find_target(target)
    except UserError as error:
        return [error.about(f"{key}._target_")]
    # the arguments of a class that does not belong here are of no interest
    if errors := place_errors(key, found):
        return errors
    known = signature(found)
    for name in [name for name in node if name not in HYDRA_KEYS]:
        if name in known.arguments:
            annotation = known.arguments[name].annotation
            errors += value_errors(join(key, name), node[name], annotation)
        elif known.open_ended:
            errors += value_errors(join(key, name), node[name], UNKNOWN)
        else:
            errors.append(_unknown(key, str(name), known))
    for name in _missing(node, known):
        errors.append(UserError(join(key, name), "missing", "it has no default"))
    return errors


def value_errors(key: str, value: Any, annotation: Any) -> list[UserError]:
    """The error of one value against an annotation, if any. Values that hold further targets are
    built, not given."""
    if _holds_object(value):
        return []
    if too_long := overlong(value):
        return [UserError(key, f"got {too_long}")]
    if fits(value, annotation):
        return []
    expected = "" if annotation is UNKNOWN else f", expected {describe(annotation)}"
    if reason := unusable(value, annotation):
        return [UserError(key, f"got {reason}{expected}")]
    return [UserError(key, f"got {shown(value)}{expected}", hint(value, annotation))]


def _root_errors(tree: dict[str, Any]) -> list[UserError]:
    errors = []
    for name, value in tree.items():
        if name in ROOT:
            errors += value_errors(str(name), value, ROOT[str(name)])
        elif name not in SECTIONS:
            known = nearest(str(name), [*ROOT, *SECTIONS])
            errors.append(UserError(str(name), "unknown key", known))
        elif not isinstance(value, dict) and not (value is None and name in OPTIONAL):
            choice = "methods by FAMILY=METHOD" if name == "methods" else f"one by {name}=NAME"
            problem = f"got {value!r}, expected a mapping"
            errors.append(UserError(str(name), problem, f"choose {choice}"))
    return errors


def _unknown(key: str, name: str, known: Signature) -> UserError:
    close = nearest_name(name, known.arguments)
    remedy = did_you_mean(join(key, close)) if close else nearest(name, known.arguments)
    return UserError(join(key, name), "unknown key", remedy)


def _missing(node: dict[str, Any], known: Signature) -> list[str]:
    if node.get("_partial_") or "_args_" in node:
        return []
    required = [name for name, argument in known.arguments.items() if argument.required]
    return [name for name in required if name not in node and name not in SUPPLIED]


def _holds_object(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_holds_object, value.values()))
    return value is BROKEN or (isinstance(value, list) and any(map(_holds_object, value)))
