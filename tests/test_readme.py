"""The README is short, leads to every page, names every data set, and its commands compose."""

import re
import shlex
from pathlib import Path

import pytest

from recipes.cli.main import main
from recipes.config.groups import CONFIGS, families, options
from recipes.config.resolve import resolve_command
from tests.support.command import after_first_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^ *(?:\$ |pip .* && )?python train\.py ([^-\n].*?)(?: +#.*)?$", README, re.MULTILINE
)


def test_it_is_short():
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_to_a_file(target):
    assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_page_is_linked(page):
    assert f"(docs/{page})" in README


@pytest.mark.parametrize("name", [n for n in options("data") if not n.startswith("_")])
def test_every_data_set_is_named(name):
    assert f"`{name}`" in README


@pytest.mark.parametrize("family", families())
def test_every_family_is_named(family):
    assert f"`{family}`" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command):
    words = [word.replace("FOLDER", "folder") for word in shlex.split(command)]
    config = resolve_command([word for word in words if not word.startswith("resume=")]).config
    recipe = next((word for word in words if word.startswith("recipe=")), f"recipe={config.recipe}")
    assert recipe == f"recipe={config.recipe}"


def test_the_commands_are_found():
    assert "recipe=fixmatch" in COMMANDS and len(COMMANDS) >= 8


def test_the_refused_command_prints_its_line(capsys):
    command, answer = re.search(
        r"^ *\$ python train\.py (.*)\n *(error: .*)$", README, re.M
    ).groups()
    assert main([*shlex.split(command), "trainer.accelerator=cpu"]) == 2
    assert after_first_line(capsys.readouterr().err) == [answer]


def test_the_configs_folder_is_the_one_that_is_read():
    assert CONFIGS.name == "configs" and len(families()) >= 8
