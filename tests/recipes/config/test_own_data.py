"""A recipe does not cut the data of a user."""

import pytest

from recipes.config.groups import CONFIGS
from recipes.config.own_data import is_demonstration
from recipes.config.resolve import resolve_command

OWN = "data=image_folder"


def resolved(*overrides):
    return resolve_command([*overrides, "data.root=unused", "run_dir=unused"])


@pytest.mark.parametrize("recipe", ["balanced_softmax", "long_tail", "fixmatch", "mixmatch", "crt"])
def test_pictures_of_a_user_stay_whole(recipe):
    demonstration = resolved(f"recipe={recipe}").config.data
    command = resolved(f"recipe={recipe}", OWN)
    assert demonstration.imbalance_factor or demonstration.labels_per_class
    stages = list(command.config.stages.values()) if command.config.get("stages") else []
    for config in [command.config, *stages]:
        assert config.data.imbalance_factor is None and config.data.labels_per_class is None
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
    assert {name for name in names if not is_demonstration(name)} == {"image_folder", "text_file"}
    assert not is_demonstration("mine")
