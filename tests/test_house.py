"""The files by which a stranger finds the way: they agree with each other and name what exists."""

import re
import sys
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("foundation", "datamodules", "recipes", "methods", "configs", "hydra_plugins/roux")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package):
    assert (ROOT / package / "py.typed").exists()


def test_versions_agree():
    citation = yaml.safe_load(read("CITATION.cff"))
    (date,) = re.findall(
        rf"^## \[{re.escape(PROJECT['version'])}\] - (\S+)$", read("CHANGELOG.md"), re.M
    )
    assert citation["version"] == PROJECT["version"]
    assert str(citation["date-released"]) == date
    assert citation["license"] == PROJECT["license"]


def test_the_makefile_runs_scripts_that_exist():
    text = read("Makefile")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()
    assert targets == ["install", "check", "format", "test", "slow", "pages"]
    assert all(re.search(rf"^{target}:", text, re.M) for target in targets)
    scripts = re.findall(r"\b[\w/]+\.py\b", text)
    modules = re.findall(r"-m (recipes\.[\w.]+)", text)
    assert len(scripts) >= 4 and all((ROOT / script).exists() for script in scripts)
    assert modules and all((ROOT / f"{name.replace('.', '/')}.py").exists() for name in modules)


def test_hooks_are_local_and_of_the_dev_extra():
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    extra = {re.split(r"[<>=\[]", name)[0] for name in PROJECT["optional-dependencies"]["dev"]}
    assert all(repository["repo"] == "local" for repository in repositories)
    tools = {re.match(r"python -m (\S+)", hook["entry"])[1] for hook in hooks}
    assert tools == {"ruff", "mypy"} <= extra and "pre-commit" in extra


def test_files_named_in_contributing_exist():
    named = re.findall(
        r"`((?:recipes|examples|tests|docs|configs)/[a-z_/.]*)`", read("CONTRIBUTING.md")
    )
    assert len(named) >= 4
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_worked_numbers_of_contributing_hold(monkeypatch):
    spec = spec_from_file_location("entropy", ROOT / "examples/own_method/entropy.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "methods.semi_supervised.entropy", module)
    blocks = re.findall(r"```python\n(.*?)```", read("CONTRIBUTING.md"), re.DOTALL)
    (block,) = (block for block in blocks if "def test_" in block)
    names: dict = {}
    exec(re.sub(r"^   ", "", block, flags=re.M), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
