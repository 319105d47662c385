"""Sweep files for Weights & Biases: a draw of the parameters becomes, in wandb's own words, a
command that composes."""

import random
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from recipes.config.groups import CONFIGS, families
from recipes.config.resolve import resolve_command
from recipes.setup.assemble import assemble

FILES = sorted((CONFIGS.parent / "sweeps" / "wandb").glob("*.yaml"))
NO_FAMILY_OF_RECIPES = {"regularization", "averaging"}  # additions to any recipe


def draw(parameters, rng):
    """One value of each parameter, as the service sends it to an agent."""

    def value(given):
        if "values" in given:
            return rng.choice(given["values"])
        if "value" in given:
            return given["value"]
        assert given["distribution"] in ("uniform", "log_uniform_values"), given
        return rng.uniform(given["min"], given["max"])

    return {name: {"value": value(given)} for name, given in parameters.items()}


def arguments(sweep, drawn):
    """The arguments after the program that an agent would start."""
    own = {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
    macros = own | {
        "args_no_hyphens": create_sweep_command_args({"args": drawn})["args_no_hyphens"]
    }
    command = []
    for part in create_sweep_command(list(sweep["command"])):
        name = part[2:-1] if part.startswith("${") and part.endswith("}") else None
        command += macros[name] if name else [part]
    assert command[:3] == ["/usr/bin/env", "python", "train.py"]
    return command[3:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_draw_is_a_sound_command(path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (CONFIGS.parent / sweep["program"]).is_file() and sweep["method"] in (
        "grid",
        "random",
        "bayes",
    )
    config = resolve_command(
        [*arguments(sweep, draw(sweep["parameters"], random.Random(0))), "dry_run=true"]
    ).config
    assert config.run_dir == str(Path("outputs/wandb/abc123")) and "wandb" in config.logger
    assembly = assemble(config)
    part, _, name = sweep["metric"]["name"].partition("/")
    assert sweep["metric"]["name"] == assembly.monitor or (part, name) in (
        ("val", "balanced_accuracy"), ("test", "robust_accuracy")
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_value_of_a_choice_composes(path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    drawn = draw(sweep["parameters"], random.Random(1))
    names = [
        (key, value)
        for key, given in sweep["parameters"].items()
        for value in given.get("values", ())
    ]
    for key, value in [pair for pair in names if isinstance(pair[1], str)]:
        resolve_command(arguments(sweep, drawn | {key: {"value": value}}))


NO_CHOICE = ("seed", "data.labels_per_class", "data.imbalance_factor")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_search_does_not_choose_seeds_or_label_counts(path):
    """The best of several seeds is a lucky one, and more labels always win: only a grid, which
    shows all, varies them."""
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    varied = [
        key for key in NO_CHOICE if len(sweep["parameters"].get(key, {}).get("values", ())) > 1
    ]
    assert sweep["method"] == "grid" or varied == []


def test_every_family_of_recipes_has_one():
    assert {path.stem for path in FILES} == {"supervised", *families()} - NO_FAMILY_OF_RECIPES
