"""Help: complete, read from the config files, and quick because it imports nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

from recipes.cli.help import EXAMPLES, help_text
from recipes.config.groups import CONFIGS, description
from tests.support.command_line import write_configs

REPOSITORY = CONFIGS.parent


def test_every_recipe_and_method_is_listed_with_its_line(tmp_path):
    lines = help_text(write_configs(tmp_path)).splitlines()
    listed = {
        line.split()[0]: " ".join(line.split()[1:])
        for line in lines
        if line.startswith("  ") and line.split()
    }
    assert listed["supervised"] == "Labels only"
    assert listed["fixmatch"] == "One threshold"
    assert listed["lora"] == "Low rank"
    assert listed["docstrings"] == "Short texts"
    assert listed["cosine"] and listed["adamw"]
    assert "none" not in [
        line.split()[0]
        for line in lines[: lines.index("Main keys, with their defaults")]
        if line.startswith("    ")
    ]


def test_main_keys_show_their_defaults_and_comments(tmp_path):
    lines = [line.strip() for line in help_text(write_configs(tmp_path)).splitlines()]
    assert any(line.startswith("seed=0 ") and "random" in line for line in lines)
    assert any(line.startswith("trainer.max_steps=1200 ") for line in lines)
    assert any(
        line.startswith("data.batch_size=64 ") and line.endswith("labeled samples in a step")
        for line in lines
    )
    assert any(line.startswith("run_dir=outputs/RECIPE/TIME ") for line in lines)
    assert all(example in lines for example in EXAMPLES)


def test_help_of_the_repository_imports_nothing_heavy():
    code = (
        "import sys; from recipes.cli.main import main; main(['--help']); print('LOADED', "
        "*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    text, _, loaded = done.stdout.partition("LOADED")
    assert not {"torch", "hydra", "omegaconf", "pydantic", "timm", "numpy"} & set(loaded.split())
    assert text.startswith("Roux")


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_config_file_describes_itself(path: Path):
    assert description(path), f"{path.name} lacks a comment that says what it is"
