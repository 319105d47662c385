"""The help text of a choice: from its config file, the docstrings of its classes and what they
declare."""

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recipes.cli.declared import declared
from recipes.config.composing import compose_quietly, hydra_at
from recipes.config.docstrings import paragraphs, prose, settings
from recipes.config.groups import as_key, to_hydra
from recipes.config.signatures import find_target

WIDTH = 100
KEY_WIDTH = 32  # settings longer than this have their text on the next line


def cards(name: str, group: str, path: Path, root: Path) -> Iterator[list[str]]:
    """The lines of each node with a `_target_` that a choice sets; a class that comes again is
    not described again."""
    shown: dict[str, str] = {}
    for key, node in targets(name, group, path, root):
        target = str(node["_target_"])
        if target in shown:
            yield [f"{key} = {target}, with the settings of {shown[target]}"]
        else:
            shown[target] = key
            yield _card(key, node)


def targets(name: str, group: str, path: Path, root: Path) -> Iterator[tuple[str, DictConfig]]:
    """The nodes with a `_target_` that a choice sets, by their keys; a data set's source first."""
    loaded = OmegaConf.load(path)
    assert isinstance(loaded, DictConfig)
    if "defaults" in loaded:
        with hydra_at(root):
            composed = compose_quietly(to_hydra([f"{group}={path.stem}"], root))
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
    return first.removeprefix(mark) if first.startswith(mark) else as_key(group).replace("/", ".")


def _nodes(key: str, node: Any) -> Iterator[tuple[str, DictConfig]]:
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        yield key, node
    for name in map(str, node):
        raw = node._get_node(name)
        if isinstance(raw, DictConfig) and not raw._is_none() and not raw._is_missing():
            yield from _nodes(f"{key}.{name}", raw)


def _card(key: str, node: DictConfig) -> list[str]:
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
    """`key=default  text`, a setting a line, in the order of the config file."""
    values = OmegaConf.to_container(node, resolve=False)
    assert isinstance(values, dict)
    # Hydra's own keys have underscores: _target_, _convert_
    names = [str(name) for name in values if not str(name).startswith("_")]
    entries = {name: _entry(name, values[name]) for name in names}
    fitting = [len(entry) for entry in entries.values() if len(entry) <= KEY_WIDTH]
    width = max(fitting, default=0)
    for name, entry in entries.items():
        lines = _wrapped(texts.get(name, ""), " " * (width + 6)) or [""]
        if len(entry) > width:
            yield f"    {entry}"
        else:
            lines[0] = f"    {entry:<{width}}  {lines[0].strip()}".rstrip()
        yield from lines


def _entry(name: str, value: Any) -> str:
    """`name=value` as on the command line, `name` for a node that is shown by itself."""
    if isinstance(value, dict) and value:
        return name
    shown = {None: "null", True: "true", False: "false"}
    text = shown[value] if value is None or isinstance(value, bool) else str(value)
    return f"{name}={text}".replace("'", "").replace(", ", ",")


def _wrapped(text: str, indent: str, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if further is None else further,
        break_long_words=False,
        break_on_hyphens=False,
    )
