"""A command as a user gives it, run in this process; and what a folder held before and after."""

import csv
import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.cli.main import main

REPOSITORY = Path(__file__).resolve().parent.parent.parent
QUIET = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false")


@dataclass(frozen=True)
class Outcome:
    """err: stderr without the line that names the run."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


def after_first_line(err: str) -> list[str]:
    """What a command said on stderr, without the line that names the run."""
    return [line for line in err.splitlines() if not line.startswith("run: ")]


def roux(*arguments: str) -> Outcome:
    """`python train.py ARGUMENTS`, here."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(arguments))
    said = "".join(f"{line}\n" for line in after_first_line(err.getvalue()))
    return Outcome(code, out.getvalue(), said)


def train(folder: Path, *arguments: str) -> Outcome:
    """A run on the CPU that must succeed."""
    outcome = roux(*QUIET, f"run_dir={folder}", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Time of change and size of everything in a folder, the folder's own included."""
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in (folder, *folder.rglob("*"))}


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, empty cells left out."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [
            {name: float(cell) for name, cell in row.items() if cell}
            for row in csv.DictReader(file)
        ]


def write_csv(path: Path, labels: list[str]) -> Path:
    """A text set whose classes use words of their own."""
    rows = [
        f"{label} text number {i} about {label}ish things,{label}" for i, label in enumerate(labels)
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


def write_pictures(folder: Path, count: int, side: int = 12) -> Path:
    """`count` pictures of noise, dark or bright by the length of the folder's name."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(len(folder.name))
    for i in range(count):
        pixels = noise.integers(0, 120, (side, side, 3)) + 100 * (len(folder.name) % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return folder
