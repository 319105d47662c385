"""The README's method of one's own works to the letter: its files, outside the repository, and its
command."""

import json
import os
import re
import subprocess
import sys
from math import log
from pathlib import Path

import pytest

from tests.support.command import QUIET, REPOSITORY, read_metrics, train

FENCE = r"```(\w+)\n(.*?)```"


def section() -> str:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return text.split("## A method of your own\n")[1].split("\n## ")[0]


def files() -> dict[str, str]:
    """Path -> text of every file in the section."""
    return {
        path: text
        for path, _, text in re.findall(rf"`(mine/[\w/.]+)`:\n\n{FENCE}", section(), re.DOTALL)
    }


def command() -> str:
    (line,) = (
        text.strip() for kind, text in re.findall(FENCE, section(), re.DOTALL) if kind == "sh"
    )
    return line


@pytest.fixture
def mine(place) -> Path:
    """The folder `mine` beside the clone."""
    for path, text in files().items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text, encoding="utf-8")
    (place / "roux").symlink_to(REPOSITORY)
    return place / "mine"


def test_it_is_complete_in_under_forty_lines():
    assert set(files()) == {"mine/entropy.py", "mine/configs/semi_supervised/entropy.yaml"}
    assert sum(text.count("\n") for text in files().values()) + len(command().splitlines()) < 40


def test_the_readme_runs_as_it_stands(mine, place):
    few_steps = [*QUIET, "trainer.max_steps=4", "trainer.log_every=1", f"run_dir={place}/own"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        f"{command()} {' '.join(few_steps)}", shell=True, cwd=mine, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    train(
        place / "without", "trainer.max_steps=4", "trainer.log_every=1", "data.labels_per_class=4"
    )

    own, without = read_metrics(place / "own"), read_metrics(place / "without")
    entropies = [row["train/entropy"] for row in own]
    assert len(entropies) == 4 and all(0 < value < log(10) for value in entropies)
    for row in own:
        assert row["train/loss"] == pytest.approx(
            row["train/supervised"] + 0.1 * row["train/entropy"], rel=1e-5
        )
    assert own[-1]["train/supervised"] != without[-1]["train/supervised"]
    losses = [
        json.loads((place / run / "metrics.json").read_text())["test/loss"]
        for run in ("own", "without")
    ]
    assert losses[0] != losses[1]
    assert "entropy: EntropyMinimization(weight=0.1)" in (place / "own" / "plan.txt").read_text()
