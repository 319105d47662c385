"""What a benchmark found: printed as it comes, kept as JSON, from which `performance.py` writes the
page.

record = Record("peers/metric_losses", __doc__, device="cpu")
record.table("Forward and backward", ["loss", "B", "ours, ms", "times as fast"], rows)
record.target("none slower", measured="0.98 to 41 times as fast", met=False, why="...")
record.write(options.json)
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.clock import surroundings


@dataclass
class Table:
    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""

    def text(self) -> str:
        body = f"{self.title}\n\n{markdown(self.head, self.rows)}"
        return f"{body}\n\n{self.note}" if self.note else body


@dataclass
class Target:
    """What was to be reached. met: None where this machine cannot tell, and then `why` says so."""

    text: str
    measured: str
    met: bool | None
    why: str = ""


@dataclass
class Record:
    """One run of one benchmark. place: ROOM/NAME. peers: packages whose versions matter.
    figures: every number, for other programs."""

    place: str
    about: str
    device: str = "cpu"
    peers: Sequence[str] = ()
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.surroundings = surroundings(self.device) | {
            name: installed(name) for name in self.peers
        }
        self.command = " ".join(
            ["python", f"benchmarks/{self.place}.py", *without_json(sys.argv[1:])]
        )
        print(", ".join(f"{key} {value}" for key, value in self.surroundings.items()), flush=True)

    def table(
        self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
    ) -> None:
        self.tables.append(Table(title, list(head), [list(row) for row in rows], note))
        print(f"\n{self.tables[-1].text()}", flush=True)

    def target(self, text: str, measured: str, met: bool | None, why: str = "") -> None:
        self.targets.append(Target(text, measured, met, why))
        print(f"\n{verdict(met)}: {text}: {measured}{f'; {why}' if why else ''}", flush=True)

    def write(self, path: Path | None, folder: Path | None = None) -> None:
        """Keep everything in a file, in place of an older one; nothing without a path. folder: one
        that the command names and that others will have elsewhere."""
        if path is None:
            return
        if folder is not None:
            self.command = self.command.replace(str(folder), "FOLDER")
        content = {
            "benchmark": self.place.rpartition("/")[2],
            "about": " ".join(self.about.strip().split("\n\n")[0].split()),
            "command": self.command,
            "surroundings": self.surroundings,
            "tables": [asdict(table) for table in self.tables],
            "targets": [asdict(target) for target in self.targets],
            "figures": self.figures,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def verdict(met: bool | None) -> str:
    return {True: "met", False: "missed", None: "not judged here"}[met]


def without_json(argv: list[str]) -> list[str]:
    """The command line without where its JSON goes, which is the writer's affair."""
    kept, skip = [], False
    for argument in argv:
        if skip or argument.startswith("--json"):
            skip = argument == "--json"
            continue
        kept.append(argument)
    return kept


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A Markdown table, columns aligned; of numbers, all but the first to the right."""
    if words:
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], *rows]
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in lines
    )


def mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f}"
