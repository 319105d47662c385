"""Every command of the examples' READMEs, in a copy of the folder: one by a shell, as a user gives
it, the others where the engine is imported already."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import python

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples"
# the same on every machine, and quiet
QUIET = "trainer.accelerator=cpu trainer.devices=1 trainer.progress_bar=false"


def blocks(name: str, language: str) -> list[str]:
    """The fenced code of an example's README."""
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(name: str) -> list[str]:
    """The lines of its `sh` blocks, comments cut off."""
    lines = [line for block in blocks(name, "sh") for line in block.splitlines()]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def shell(command: str, folder: Path) -> str:
    """What a command prints in a process of its own; it must succeed."""
    interpreters = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{interpreters}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def quick(command: str, folder: Path) -> str:
    """The same in a process that has imported the engine."""
    program, *words = shlex.split(command)
    assert program == "python"
    code, said = python(words, folder)
    assert code == 0, f"{command}\n{said}"
    return said


def train(command: str, folder: Path, *overrides: str) -> str:
    """A training command of a README, on the CPU."""
    assert command.startswith("python ../../train.py ")
    return quick(f"{command} {QUIET} {' '.join(overrides)}", folder)


@pytest.fixture
def copied(tmp_path):
    """A folder of `examples/` in a repository that holds nothing else but `train.py`."""

    def copy(name: str) -> Path:
        (tmp_path / "train.py").symlink_to(REPOSITORY / "train.py")
        return Path(shutil.copytree(EXAMPLES / name, tmp_path / "examples" / name))

    return copy


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_example_is_listed():
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[(\w+)\]\(\1\) \|", page, re.MULTILINE)) == folders
    assert all((EXAMPLES / name / "README.md").exists() for name in folders)


def test_own_method(copied):
    folder = copied("own_method")
    alone, planned, combined = commands("own_method")
    train(alone, folder, "trainer.max_steps=2", "trainer.log_every=1", "run_dir=run")
    assert all(
        float(row["train/entropy/label"]) > 0 for row in read(folder / "run/metrics.csv")[:2]
    )
    assert "entropy: EntropyMinimization(weight=0.1)" in train(planned, folder)
    plan = train(combined, folder, "dry_run=true")
    assert "entropy: EntropyMinimization" in plan and "sam: SAM" in plan


def test_own_data(copied):
    folder = copied("own_data")
    draw, training, predicting = commands("own_data")
    quick(draw, folder)
    assert len(list(folder.glob("shapes/train/*/*.png"))) == 120
    train(training, folder)
    assert (folder / "run" / "report.html").exists()
    shell(predicting, folder)
    rows = read(folder / "labels.csv")
    right = [row["input"].startswith(row["label"]) for row in rows]
    assert len(rows) == 6 and sum(right) >= 5, rows
    (code,) = blocks("own_data", "python")
    (folder / "one.py").write_text(code, encoding="utf-8")
    assert quick("python one.py", folder).strip() in ("circle", "square", "triangle")


def test_own_texts(copied):
    folder = copied("own_data")
    text = (folder / "README.md").read_text(encoding="utf-8")
    (training,) = re.findall(r"^    (python .* data=text_file .*)$", text, re.MULTILINE)
    (predicting,) = re.findall(r"`(python -m recipes.predict run=run_texts .*?)`", text, re.DOTALL)
    lines = [f"the {word} number {i},{word}" for i in range(20) for word in ("cat", "dog")]
    (folder / "FILE.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    train(training, folder, "trainer.max_steps=2")
    quick(predicting, folder)
    labels = [row["label"] for row in read(folder / "text_labels.csv")]
    assert len(labels) == 40 and set(labels) <= {"cat", "dog"}
