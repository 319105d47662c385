"""The README's method of one's own is the example's, file by file, and its command works to the
letter."""

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
        for path, _, text in re.findall(rf"`([\w/.]+)`:\n\n{FENCE}", section(), re.DOTALL)
    }


def command() -> str:
    (line,) = (
        text.strip() for kind, text in re.findall(FENCE, section(), re.DOTALL) if kind == "sh"
    )
    return line


@pytest.fixture
def own(place) -> Path:
    """The files of the section in a folder as deep below `train.py` as the example's."""
    folder = place / "examples" / "own_method"
    for path, text in files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    (place / "train.py").symlink_to(REPOSITORY / "train.py")
    return folder


def test_its_files_are_those_of_the_example():
    example = REPOSITORY / "examples" / "own_method"
    assert set(files()) == {"entropy.py", "configs/semi_supervised/entropy.yaml"}
    for path, text in files().items():
        assert (example / path).read_text(encoding="utf-8") == text, path
    assert command() in (example / "README.md").read_text(encoding="utf-8")


def test_it_is_complete_in_under_forty_lines():
    assert sum(text.count("\n") for text in files().values()) + len(command().splitlines()) < 40


def test_the_readme_runs_as_it_stands(own, place):
    few_steps = [*QUIET, "trainer.max_steps=4", "trainer.log_every=1", f"run_dir={place}/own"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        f"{command()} {' '.join(few_steps)}", shell=True, cwd=own, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    train(
        place / "without", "trainer.max_steps=4", "trainer.log_every=1", "data.labels_per_class=4"
    )

    with_it, without = read_metrics(place / "own"), read_metrics(place / "without")
    entropies = [row["train/entropy/label"] for row in with_it]
    assert len(entropies) == 4 and all(0 < value < log(10) for value in entropies)
    for row in with_it:
        assert row["train/loss"] == pytest.approx(
            row["train/supervised"] + 0.1 * row["train/entropy/label"], rel=1e-5
        )
    assert with_it[-1]["train/supervised"] != without[-1]["train/supervised"]
    losses = [
        json.loads((place / run / "metrics.json").read_text())["test/loss"]
        for run in ("own", "without")
    ]
    assert losses[0] != losses[1]
    assert "entropy: EntropyMinimization(weight=0.1)" in (place / "own" / "plan.txt").read_text()
