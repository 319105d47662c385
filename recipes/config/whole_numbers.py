"""`trainer.max_steps=1e3`: YAML reads a number with an exponent as a float. Where a whole number is
expected and the float is one, the setting gets the whole number."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig

from foundation.errors import UserError
from recipes.config.signatures import find_target, fits, signature

EXACT = 2**53  # floats above are not the number that was written


def write_whole_numbers(config: DictConfig, root: Mapping[str, Any]) -> None:
    """Change such values of a composed config in place. root: annotations of the keys at its
    root."""
    for name in list(config):
        if name in root:
            write_whole(config, str(name), root[str(name)])
        else:
            write_below(config._get_node(name))


def write_below(node: Any) -> None:
    """The same for all nodes with a `_target_`, at a node and below it."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    if node._is_interpolation():
        return
    if isinstance(node, DictConfig) and "_target_" in node:
        for name, annotation in annotations(node).items():
            if name in node:
                write_whole(node, name, annotation)
    keys = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        write_below(node._get_node(key))


def annotations(node: DictConfig) -> dict[str, Any]:
    """Those of a node's arguments; none for a target that is none, which validation says."""
    target = node._get_node("_target_")._value()  # type: ignore[union-attr]
    try:
        known = signature(find_target(target)) if isinstance(target, str) else None
    except UserError:
        return {}
    return {name: entry.annotation for name, entry in known.arguments.items()} if known else {}


def write_whole(node: DictConfig, name: str, annotation: Any) -> None:
    child = node._get_node(name)
    value = child._value() if child is not None else None  # type: ignore[union-attr]
    whole = as_whole(value, annotation)
    if whole is not value:
        node[name] = whole


def as_whole(value: Any, annotation: Any) -> Any:
    """The value as an integer, if only so it fits; else the value itself."""
    if not isinstance(value, float) or not value.is_integer() or abs(value) > EXACT:
        return value
    if fits(value, annotation) or not fits(int(value), annotation):
        return value
    if value == 1.0 and fits(0.5, annotation):
        return value  # one step, or the whole of a run
    return int(value)
