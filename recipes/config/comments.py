"""The comment behind each key of a config file, written from the docstring of the class that takes
the key.

    python -m recipes.config.comments --check      exit code 1 and a line for each stale file
    python -m recipes.config.comments --write      rewrites the comments of stale files

Only comments behind keys of mappings with a `_target_` are touched: values, order, lines of
comments and the comments of all other keys stay as they are."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from recipes.config.docstrings import brief, settings
from recipes.config.groups import CONFIGS
from recipes.config.signatures import find_target

WIDTH = 120  # longest line with its comment
COLUMN = 32  # comments of a mapping stand in one column, up to this one
GAP = 2


@dataclass(frozen=True)
class Key:
    """A key of a mapping with a `_target_`: its line, where the code of the line ends, its text."""

    line: int
    end: int
    text: str


def commented(source: str) -> str:
    """The source of a config file with the comments that the docstrings give."""
    lines = source.splitlines()
    for keys in documented_mappings(yaml.compose(source, Loader=yaml.SafeLoader)):
        column = max((key.end for key in keys if key.end + GAP <= COLUMN), default=0) + GAP
        for key in keys:
            code = lines[key.line][: key.end]
            start = max(column, key.end + GAP)
            lines[key.line] = f"{code:<{start}}# {brief(key.text, WIDTH - start - 2)}"
    return "\n".join(lines) + "\n"


def documented_mappings(node: yaml.Node | None) -> Iterator[list[Key]]:
    """The keys of each mapping with a `_target_`, at the node and below it."""
    if not isinstance(node, yaml.MappingNode):
        return
    entries = {key.value: (key, value) for key, value in node.value}
    if "_target_" in entries:
        texts = settings(find_target(entries.pop("_target_")[1].value))
        yield [
            Key(key.start_mark.line, end_of_code(key, value), texts[name])
            for name, (key, value) in entries.items()
            if name in texts
        ]
    for _, value in entries.values():
        yield from documented_mappings(value)


def end_of_code(key: yaml.Node, value: yaml.Node) -> int:
    """The column behind the value, or behind the colon where the value begins on a later line."""
    if value.end_mark.line == key.start_mark.line:
        return value.end_mark.column
    return key.end_mark.column + 1


def stale_files(root: Path = CONFIGS) -> dict[Path, str]:
    """Files whose comments are not those of the docstrings, with the text that they should have."""
    found: dict[Path, str] = {}
    for path in sorted(root.rglob("*.yaml")):
        source = path.read_text(encoding="utf-8")
        if (fresh := commented(source)) != source:
            found[path] = fresh
    return found


def main(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    if list(argv) not in (["--check"], ["--write"]):
        print("usage: python -m recipes.config.comments --check | --write", file=sys.stderr)
        return 2
    stale = stale_files()
    for path, text in stale.items():
        name = path.relative_to(CONFIGS.parent)
        if argv[0] == "--write":
            path.write_text(text, encoding="utf-8")
            print(f"{name}: written")
        else:
            print(f"{name}: comments differ from the docstrings")
    return int(bool(stale) and argv[0] == "--check")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
