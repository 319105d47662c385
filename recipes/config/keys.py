"""Keys of overrides and of config trees, as text."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

PARTS = ("methods", "evaluate")  # sections whose entries a run has or has not


def key_of(override: str) -> str:
    """The key of an override as written: `+a.b=1` -> `a.b`; where it chooses of a group for a
    place, `+group@a.b=1`, the place."""
    return override.lstrip("+~").partition("=")[0].rpartition("@")[2].strip()


def value_of(override: str) -> str:
    """The value of an override as written: `+a.b=1` -> `1`."""
    return override.partition("=")[2]


def join(key: str, name: Any) -> str:
    """The key of a child; that of the root is empty."""
    return f"{key}.{name}" if key else str(name)


def part_of(key: str) -> str:
    """`methods.NAME` or `evaluate.NAME` of a key below one of these, and empty for any other."""
    section, *rest = key.split(".")
    return f"{section}.{rest[0]}" if section in PARTS and rest else ""


def missing_part(config: DictConfig, key: str) -> str:
    """The method or measurement of a key, as `part_of`, if this run does not have it; else empty.

    What a recipe sets of it does not make it a part of the run: that has a `_target_`."""
    part = part_of(key)
    node = OmegaConf.select(config, part) if part else None
    present = isinstance(node, DictConfig) and "_target_" in node
    return "" if present else part


def has_key(tree: DictConfig, key: str) -> bool:
    """Whether a dotted key exists, a null or open value included."""
    node: Any = tree
    for part in key.replace("[", ".").replace("]", "").split("."):
        # `in` denies a key whose value is still open (???)
        if isinstance(node, DictConfig) and part in list(node.keys()):
            node = node._get_node(part)
        elif isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
        else:
            return False
    return True


def all_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a tree, inner nodes too."""
    if isinstance(tree, DictConfig) and not tree._is_none() and not tree._is_missing():
        for name in tree:
            key = f"{prefix}{name!s}"
            yield key
            yield from all_keys(tree._get_node(name), f"{key}.")
