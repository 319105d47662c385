"""YAML from files that others may have written: plain values only, checked before anything is made
of it.

Roux resolves a config before it writes it. So a tag, an alias or an interpolation in such a file is
never Roux's own, and is refused: a tag names a Python object, an alias multiplies a small file, and
an interpolation reads the reader's environment (`${oc.env:NAME}`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError, first_line

TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
)
KEY_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "bool"))
DEEPEST = 40  # levels of nesting; a config has six
SHOWN = 60  # characters of a refused value that a message repeats


def parse_plain(text: Any, source: str) -> DictConfig:
    """The mapping that the text describes, without interpolations. source: begins each message.

    Raises UserError, one line, for anything else.
    """
    if not isinstance(text, str):
        raise UserError(source, f"its config is {type(text).__name__}", "expected YAML text")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(source, f"its config is not YAML ({yaml_problem(error)})") from error
    except RecursionError as error:
        raise UserError(source, "its config is nested too deeply") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(
            source, "its config is not a mapping", "expected the keys of a run's config.yaml"
        )
    problem = next(problems(root, "", 0, set()), None)
    if problem:
        raise UserError(source, problem)
    try:
        config = OmegaConf.create(text)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise UserError(source, f"its config cannot be read ({first_line(error)})") from error
    assert isinstance(config, DictConfig)
    return config


def read_plain(path: Path, source: str) -> DictConfig:
    """As `parse_plain`, of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(source, f"cannot be read ({first_line(error)})") from error
    return parse_plain(text, source)


def problems(node: yaml.Node, key: str, depth: int, seen: set[int]) -> Iterator[str]:
    """What is not plain at or below a node, one line each. seen: nodes met so far, by id."""
    if depth > DEEPEST:
        yield f"{key[:SHOWN]}…: is nested too deeply"
        return
    if id(node) in seen:
        yield f"{key}: found an alias; expected a plain value"
        return
    seen.add(id(node))
    if node.tag not in TAGS:
        yield f"{key}: found the YAML tag '{node.tag}'; expected a plain value"
    elif isinstance(node, yaml.MappingNode):
        yield from mapping_problems(node, key, depth, seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            yield from problems(child, f"{key}[{i}]", depth + 1, seen)
    elif "${" in node.value:
        yield f"{key}: found the interpolation {shown(node.value)}; expected a plain value"


def mapping_problems(node: yaml.MappingNode, key: str, depth: int, seen: set[int]) -> Iterator[str]:
    names: set[str] = set()
    for name, child in node.value:
        if (
            not isinstance(name, yaml.ScalarNode)
            or name.tag not in KEY_TAGS
            or not is_name(name.value)
        ):
            found = name.value if isinstance(name, yaml.ScalarNode) else name.tag
            yield f"{key or 'config'}: found the key {shown(str(found))}; expected a plain name"
            continue
        if name.value in names:
            yield f"{key or 'config'}: has the key {shown(name.value)} twice"
        names.add(name.value)
        below = f"{key}.{name.value}" if key else name.value
        yield from problems(child, below, depth + 1, seen)


def is_name(text: str) -> bool:
    """Whether a key fits on a line and holds no interpolation."""
    return text.isprintable() and "${" not in text


def shown(text: str) -> str:
    """A value in a message: quoted, on one line, not too long."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "…")


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, on one line."""
    problem = str(getattr(error, "problem", None) or first_line(error))
    mark = getattr(error, "problem_mark", None)
    return f"{problem}, line {mark.line + 1}" if mark else problem
