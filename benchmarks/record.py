"""What a benchmark found: printed as it comes, kept as JSON, from which `pages/performance.py`
writes the page.

    record = Record("peers/metric_losses", __doc__, device="cpu")
    record.table("Forward and backward", ["loss", "B", "ours, ms", "times as fast"], rows)
    record.target("none slower", measured="0.98 to 41 times as fast", met=False, why="...")
    record.write(options.json)
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import installed, surroundings
from benchmarks.table import Table

VERDICTS = {True: "met", False: "missed", None: "not judged here"}


@dataclass
class Target:
    """What was to be reached. met: None where this machine cannot tell, and then `why` says so."""

    text: str
    measured: str
    met: bool | None
    why: str = ""


@dataclass
class Record:
    """One run of one benchmark. place: ROOM/NAME. peers: packages whose versions matter."""

    place: str
    about: str
    device: str = "cpu"
    peers: Sequence[str] = ()
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def __post_init__(self) -> None:
        versions = {name: installed(name) for name in self.peers}
        self.surroundings = surroundings(self.device) | versions
        module = f"benchmarks.{self.place.replace('/', '.')}"
        self.command = " ".join(["python -m", module, *without_json(sys.argv[1:])])
        print(", ".join(f"{key} {value}" for key, value in self.surroundings.items()), flush=True)

    def table(
        self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
    ) -> None:
        self.tables.append(Table(title, list(head), [list(row) for row in rows], note))
        print(f"\n{self.tables[-1].text()}", flush=True)

    def target(self, text: str, measured: str, met: bool | None, why: str = "") -> None:
        self.targets.append(Target(text, measured, met, why))
        because = f"; {why}" if why else ""
        print(f"\n{VERDICTS[met]}: {text}: {measured}{because}", flush=True)

    def hide(self, folder: Path | None) -> None:
        """A folder that the command names, and that others will have elsewhere."""
        if folder is not None:
            self.command = self.command.replace(str(folder), "FOLDER")

    def write(self, path: Path | None) -> None:
        """Keep everything in a file, in place of an older one; nothing without a path."""
        if path is None:
            return
        content = {
            "benchmark": self.place.rpartition("/")[2],
            "about": " ".join(self.about.strip().split("\n\n")[0].split()),
            "command": self.command,
            "surroundings": self.surroundings,
            "tables": [asdict(table) for table in self.tables],
            "targets": [asdict(target) for target in self.targets],
        }
        save(path, content)


def load(path: Path, empty: Any = None) -> Any:
    """The numbers that a file keeps; `empty` where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def without_json(argv: list[str]) -> list[str]:
    """The command line without the path of its JSON, which is the writer's affair."""
    kept, skip = [], False
    for argument in argv:
        if skip or argument.startswith("--json"):
            skip = argument == "--json"
            continue
        kept.append(argument)
    return kept
