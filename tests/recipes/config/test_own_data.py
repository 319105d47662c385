"""A recipe does not cut the data of a user."""

from typing import Any

import pytest
import yaml

from recipes.config.groups import CONFIGS
from recipes.config.own_data import CUTS, is_demonstration
from recipes.config.resolve import resolve_command

OWN = "data=image_folder"


def own_cuts(data) -> dict[str, float]:
    return {key: data[key] for key in CUTS if data[key]}


def resolved(*overrides):
    return resolve_command([*overrides, "data.root=unused", "run_dir=unused"])


def cutting_recipes() -> list[str]:
    """The recipes whose files cut the data."""
    found = []
    for path in sorted((CONFIGS / "recipe").glob("*.yaml")):
        data = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("data", {})
        if any(key in data for key in CUTS):
            found.append(path.stem)
    return found


def test_recipes_that_cut_are_found():
    long_tail = {"long_tail", "balanced_softmax", "crt", "fixmatch_logit_adjustment"}
    assert long_tail | {"fixmatch", "mixmatch", "text_fixmatch"} < set(cutting_recipes())


def params() -> list[Any]:
    """One recipe of each form; the others, which are composed alike, are slow ones."""
    forms = ("fixmatch", "long_tail", "crt", "fafs")  # labels, a profile, stages, rounds
    return [
        pytest.param(name, marks=() if name in forms else (pytest.mark.slow,))
        for name in cutting_recipes()
    ]


@pytest.mark.parametrize("recipe", params())
def test_pictures_of_a_user_stay_whole(recipe):
    demonstration = resolved(f"recipe={recipe}").config.data
    command = resolved(f"recipe={recipe}", OWN)
    assert own_cuts(demonstration)
    stages = list(command.config.stages.values()) if command.config.get("stages") else []
    stages = [stage for stage in stages if not stage.get("program")]  # which has no data
    for config in [command.config, *stages]:
        assert own_cuts(config.data) == {}
    assert any("data=image_folder stays whole" in line for line in command.lines)


def test_what_the_command_cuts_is_cut():
    command = resolved("recipe=balanced_softmax", OWN, "data.imbalance_factor=10")
    assert command.config.data.imbalance_factor == 10 and command.lines == []


def test_what_the_file_of_the_data_cuts_is_cut(tmp_path):
    (tmp_path / "data").mkdir()
    text = "defaults: [image_folder, _self_]\nimbalance_factor: 7\n"
    (tmp_path / "data" / "mine.yaml").write_text(text, encoding="utf-8")
    path = f"hydra.searchpath=[file://{tmp_path}]"
    config = resolved(path, "recipe=balanced_softmax", "data=mine").config
    assert config.data.imbalance_factor == 7


def test_without_a_cut_nothing_is_said():
    assert resolved("recipe=supervised", OWN).lines == []


def test_our_sets_are_known():
    names = {path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml")}
    own = {"hub_images", "hub_texts", "image_folder", "image_table", "own_images", "text_file"}
    own |= {"cifar10n", "imagenet_lt", "inaturalist18", "places_lt"}
    assert {name for name in names if not is_demonstration(name)} == own
    assert not is_demonstration("mine")


@pytest.mark.parametrize("override", ["data.labels=50", "data.labeled=split.txt"])
def test_the_command_says_which_labels_are_kept_and_the_recipe_gives_way(override):
    config = resolve_command(["recipe=fixmatch", override, "run_dir=unused"]).config
    assert config.data.labels_per_class is None
    both = ["recipe=fixmatch", override, "data.labels_per_class=4", "run_dir=unused"]
    assert resolve_command(both).config.data.labels_per_class == 4  # refused by the data module
