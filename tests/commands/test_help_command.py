"""`python train.py --help`: everything there is to choose, at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import REPOSITORY

NOT_FAMILIES = {"data", "logger", "network", "optimizer", "recipe", "scheduler", "trainer", "tuned"}
HEAVY = ("torch", "hydra", "omegaconf", "pydantic", "pytorch_lightning", "timm", "transformers")


def chosen(family: Path) -> list[Path]:
    return [
        p for p in sorted(family.glob("*.yaml")) if p.stem != "none" and not p.stem.startswith("_")
    ]


CHOICES = {
    path.stem: path
    for family in sorted((REPOSITORY / "configs").iterdir())
    if family.is_dir() and family.name not in NOT_FAMILIES - {"recipe"}
    for path in chosen(family)
}


@pytest.fixture(scope="module")
def told() -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-X", "importtime", str(REPOSITORY / "train.py"), "--help"],
        cwd=Path(sys.executable).parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_it_succeeds_without_anything_heavy(told):
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert told.returncode == 0 and "recipes.cli.help" in imported and not imported & set(HEAVY)


@pytest.mark.parametrize("name", CHOICES)
def test_each_recipe_and_method_has_its_line(name, told):
    (about, *_) = [
        line.lstrip("# ")
        for line in CHOICES[name].read_text(encoding="utf-8").splitlines()
        if line.startswith("#") and not line.startswith("# @package")
    ]
    lines = [line.split(maxsplit=1) for line in told.stdout.splitlines()]
    assert [name, about] in lines


def test_parts_of_files_are_no_choice(told):
    words = {line.split()[0] for line in told.stdout.splitlines() if line.strip()}
    assert not [word for word in words if word.startswith("_")]
    assert {"digits", "docstrings", "sgd", "cosine", "wandb"} <= words
