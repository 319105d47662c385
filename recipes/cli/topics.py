"""`python train.py --help methods.NAME`, `data.NAME`, `GROUP/NAME`: one choice in full, from its
config file, the docstring of its class and what it declares."""

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from foundation.errors import UserError
from recipes.cli.declared import declared
from recipes.config.docstrings import paragraphs, prose, settings
from recipes.config.groups import CONFIGS, description, families, spoken, written
from recipes.config.overrides import compose_quietly, hydra_at
from recipes.config.signatures import find_target, suggestion

WIDTH = 100
KEY_WIDTH = 32  # settings longer than this have their text on the next line
WHOLE_RUN = ("recipe", "tuned")  # groups whose files set keys of the whole run


def topic_text(name: str, root: Path = CONFIGS) -> str:
    """The help of one choice. Raises `UserError` for an unknown name, with the nearest one."""
    known = topics(root)
    asked = canonical(name, root)
    if asked not in known:
        near = suggestion(asked, list(known))
        raise UserError(
            f"--help {name}: there is no such name; {near or 'python train.py --help lists all'}"
        )
    path = known[asked]
    group = path.parent.relative_to(root).as_posix()
    lines = [f"{asked}: {description(path)}", ""]
    if group in WHOLE_RUN:
        lines += [*_file(path), ""]
    else:
        for key, node in targets(asked, group, path, root):
            lines += [*_target(key, node), ""]
    lines += ["Command", f"  python train.py {written(group)}={path.stem}"]
    return "\n".join(lines)


def topics(root: Path = CONFIGS) -> dict[str, Path]:
    """The config file of every choice, by its name for `--help`: `methods.NAME` or `GROUP.NAME`."""
    files = [p for p in sorted(root.rglob("*.yaml")) if not p.stem.startswith("_")]
    named = [(p.relative_to(root).with_suffix("").as_posix(), p) for p in files if p.parent != root]
    return {canonical(name, root): p for name, p in named if p.stem != "none"}


def canonical(name: str, root: Path = CONFIGS) -> str:
    """A name with dots, and with `methods` for the family of a method."""
    group, dot, choice = name.replace("/", ".").rpartition(".")
    return f"{'methods' if group in families(root) else group}{dot}{choice}"


def targets(name: str, group: str, path: Path, root: Path) -> Iterator[tuple[str, DictConfig]]:
    """The nodes with a `_target_` that a choice sets, by their keys; a data set's source first."""
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    if "defaults" in loaded:
        with hydra_at(root):
            composed = compose_quietly(spoken([f"{group}={path.stem}"], root))
        top = group.replace("/", ".")
        loaded = OmegaConf.select(composed, top)
    else:
        top = name if name.startswith("methods.") else package(path, group)
    nodes = list(_nodes(top, loaded))
    yield from sorted(nodes, key=lambda entry: entry[0] != "data.source")


def package(path: Path, group: str) -> str:
    """Where in the config the keys of a file stand."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    mark = "# @package "
    return first.removeprefix(mark) if first.startswith(mark) else group.replace("/", ".")


def _nodes(key: str, node: Any) -> Iterator[tuple[str, DictConfig]]:
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        yield key, node
    for name in node:
        raw = node._get_node(name)
        if isinstance(raw, DictConfig) and not raw._is_none() and not raw._is_missing():
            yield from _nodes(f"{key}.{name}", raw)


def _target(key: str, node: DictConfig) -> list[str]:
    target = find_target(str(node["_target_"]))
    module = inspect.getmodule(target)
    paper = paragraphs(module.__doc__ or "")[:1] if key.startswith("methods.") and module else []
    lines = [f"{key} = {node['_target_']}"]
    for text in [*prose(target), *(" ".join(items) for items in paper)]:
        lines += [*_wrapped(text, "  "), ""]
    if rows := list(_settings(node, settings(target))):
        lines += [f"  Settings ({key}.KEY=VALUE), with their defaults", *rows, ""]
    for title, texts in declared(target, node):
        lines += [f"  {title}"]
        for text in texts:
            lines += _wrapped(text, "    ", "      ")
        lines.append("")
    return lines[:-1]


def _settings(node: DictConfig, texts: dict[str, str]) -> Iterator[str]:
    """`key=default  text`, a setting a line, in the order of the constructor."""
    values = OmegaConf.to_container(node, resolve=False)
    assert isinstance(values, dict)
    entries = {name: _entry(name, values[name]) for name in texts if name in values}
    fitting = [len(entry) for entry in entries.values() if len(entry) <= KEY_WIDTH]
    width = max(fitting, default=0)
    for name, entry in entries.items():
        lines = _wrapped(texts[name], " " * (width + 6))
        if len(entry) > width:
            yield f"    {entry}"
        else:
            lines[0] = f"    {entry:<{width}}  {lines[0].strip()}"
        yield from lines


def _entry(name: str, value: Any) -> str:
    """`name=value` as on the command line, `name` for a node that is shown by itself."""
    if isinstance(value, dict) and value:
        return name
    shown = {None: "null", True: "true", False: "false"}
    text = shown[value] if value is None or isinstance(value, bool) else str(value)
    return f"{name}={text}".replace("'", "").replace(", ", ",")


def _file(path: Path) -> list[str]:
    """A recipe's own lines: how it was measured, what it chooses and sets."""
    lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    return [f"  {line}".rstrip() for line in lines if not line.startswith("# @package")]


def _wrapped(text: str, indent: str, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if further is None else further,
        break_long_words=False,
        break_on_hyphens=False,
    )
