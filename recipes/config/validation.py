"""One pass over a composed config that finds all faults at once, one line each, before anything is
built.

Every node with `_target_` is held against the signature of what it names: unknown and missing
arguments, types, ranges. Interpolations that do not resolve and values left open (`???`) are faults
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

from foundation.errors import UserError, nearest
from recipes.config.signatures import (
    Signature,
    describe,
    find_target,
    fits,
    hint,
    signature,
    suggestion,
)

HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
SUPPLIED = {"info", "tasks"}
ROOT: dict[str, Any] = {
    "seed": Annotated[int, Field(ge=0, le=2**32 - 1)],
    "run_dir": Annotated[str, Field(min_length=1)],
    "dry_run": bool,
    "resume": str | None,
    "accept_changes": bool,
    "recipe": str,
    "chosen": dict[str, str],
    "stages": dict[str, list[str]] | None,
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
)
REQUIRED = ("data", "network", "optimizer", "scheduler", "trainer")


class Broken:
    """Stands for a value that did not resolve; its fault is noted where it was met."""

    def __repr__(self) -> str:
        return "an unresolved value"


BROKEN = Broken()


def validate(config: DictConfig) -> list[str]:
    """All faults of a composed config (without Hydra's own node), one line each; empty where it is
    sound."""
    faults: list[str] = []
    tree = plain(config, "", faults)
    faults += _root_faults(tree)
    faults += [
        f"{name}: is missing; choose one by {name}=NAME" for name in REQUIRED if name not in tree
    ]
    for key in [name for name in tree if name not in ROOT]:
        for path, node in targets(tree[key], str(key)):
            faults += target_faults(path, node)
    return sorted(set(faults), key=faults.index)


def plain(node: Any, key: str, faults: list[str]) -> Any:
    """The node as dicts, lists and values, every interpolation resolved; what does not resolve is
    noted."""
    if not isinstance(node, Container):
        return node
    if node._is_none():
        return None
    if isinstance(node, DictConfig):
        return {name: _child(node, name, join(key, name), faults) for name in node}
    assert isinstance(node, ListConfig)
    return [_child(node, i, f"{key}[{i}]", faults) for i in range(len(node))]


def _child(node: Any, name: Any, key: str, faults: list[str]) -> Any:
    try:
        return plain(node[name], key, faults)
    except MissingMandatoryValue:
        faults.append(f"{key}: has no value yet; give one: {key}=…")
    except OmegaConfBaseException as error:
        raw: Any = OmegaConf.to_container(node, resolve=False)
        # OmegaConf names the class of the error first
        reason = first_line(error).rpartition("resolving interpolation: ")[2]
        gap = null_behind(node._get_root(), str(raw[name]))
        if gap:
            # one line, however many values are taken from there
            here = key.rpartition(".")[0]
            faults.append(
                f"{gap}: is null, and {here} takes its values from there; expected a mapping"
            )
        else:
            faults.append(f"{key}: '{raw[name]}' does not resolve: {reason}")
    return BROKEN


def null_behind(root: Any, text: str) -> str:
    """The null that an interpolation looks into: `a.b` for `${a.b.c}` where a.b is null; empty
    where there is none."""
    found = re.fullmatch(r"\$\{([\w.]+)\}", text)
    parts = found[1].split(".") if found else []
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


def target_faults(key: str, node: dict[str, Any]) -> list[str]:
    """Faults of one node against the signature of its target; nodes below it are looked at on their
    own."""
    if not isinstance(node["_target_"], str):
        return [
            f"{key}._target_: got {node['_target_']!r}, expected the dotted path of a class or "
            "function"
        ]
    try:
        known = signature(find_target(node["_target_"]))
    except UserError as error:
        return [f"{key}._target_: {error}"]
    faults = []
    for name, value in node.items():
        if name in HYDRA_KEYS:
            continue
        if name in known.arguments:
            faults += value_faults(join(key, name), value, known.arguments[name].annotation)
        elif not known.open_ended:
            faults.append(_unknown(key, str(name), known))
    return faults + [f"{join(key, n)}: missing; it has no default" for n in _missing(node, known)]


def value_faults(key: str, value: Any, annotation: Any) -> list[str]:
    """The fault of one value against an annotation, if any. Values holding further targets are
    built, not given."""
    if _holds_object(value) or fits(value, annotation):
        return []
    meant = hint(value, annotation)
    return [
        f"{key}: got {value!r}, expected {describe(annotation)}" + (f"; {meant}" if meant else "")
    ]


def join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without trailing punctuation."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def _root_faults(tree: dict[str, Any]) -> list[str]:
    faults = []
    for name, value in tree.items():
        if name in ROOT:
            faults += value_faults(str(name), value, ROOT[str(name)])
        elif name not in SECTIONS:
            faults.append(f"{name}: unknown key; {nearest(str(name), [*ROOT, *SECTIONS])}")
        elif not isinstance(value, dict):
            remedy = (
                "choose methods by FAMILY=METHOD"
                if name == "methods"
                else f"choose one by {name}=NAME"
            )
            faults.append(f"{name}: got {value!r}, expected a mapping; {remedy}")
    return faults


def _unknown(key: str, name: str, known: Signature) -> str:
    near = suggestion(name, list(known.arguments))
    meant = near.replace("'", f"'{key}.", 1) if near else nearest(name, known.arguments)
    return f"{join(key, name)}: unknown key; {meant}"


def _missing(node: dict[str, Any], known: Signature) -> list[str]:
    if node.get("_partial_") or "_args_" in node:
        return []
    required = [name for name, argument in known.arguments.items() if argument.required]
    return [name for name in required if name not in node and name not in SUPPLIED]


def _holds_object(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_holds_object, value.values()))
    return value is BROKEN or (isinstance(value, list) and any(map(_holds_object, value)))
