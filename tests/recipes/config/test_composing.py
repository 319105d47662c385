"""What is remembered of a compose is what Hydra composes."""

import shutil

import pytest
from hydra import compose
from omegaconf import OmegaConf

from recipes.config import composing
from recipes.config.composing import compose_quietly, hydra_at
from recipes.config.groups import CONFIGS, to_hydra
from recipes.config.overrides import REFUSALS
from tests.test_page_commands import COMMANDS

SOUND = [
    ("recipe=fixmatch", "peft=lora", "optimizer.lr=0.5", "run_dir=somewhere"),
    ("recipe=supervised", "+optimizer.more=1", "++data.batch_size=3", "~trainer.max_steps"),
    ("recipe=supervised", "callbacks={a: {b: 1}}", "data.root='a, b'", "network.name=null"),
    ("recipe=text_supervised", "long_tail=[balanced_softmax]", "seed=${data.batch_size}"),
    ("recipe=supervised", "~scheduler", "peft=lora"),
    ("recipe=supervised", "hydra/job_logging=none", "hydra.verbose=true"),
    ("recipe=crt", "optimizer.lr=1e-3"),
    ("recipe=crt", "scheduler={}"),
    (),
]
REFUSED = [
    ("recipe=supervised", "optimizer.rate=1"),
    ("recipe=supervised", "+optimizer.lr=1"),
    ("recipe=supervised", "~optimizer.rate"),
    ("recipe=supervised", "~optimizer.lr=77"),
    ("recipe=none_such",),
    ("recipe=supervised", "pfet=lora"),
    ("recipe=supervised", "optimizer@there=sgd"),
    ("recipe=supervised", "optimizer.lr=1,2"),
    ("recipe=supervised,crt",),
    ("recipe=supervised", "optimizer.lr=[1"),
    ("recipe=supervised", "seed=${nothing.there"),
]


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(composing, "_REMEMBERED", type(composing._REMEMBERED)())


def plainly(overrides):
    return compose("config", overrides=list(overrides), return_hydra_config=True)


def everything(config):
    """All that a config says, and what of it may be changed."""
    flags = [OmegaConf.is_struct(config), OmegaConf.is_readonly(config.hydra)]
    return OmegaConf.to_container(config, enum_to_str=True), flags


def same(overrides):
    with hydra_at(CONFIGS):
        whole = everything(plainly(overrides))
        assert everything(compose_quietly(overrides)) == whole
        assert everything(compose_quietly(overrides)) == whole  # remembered


@pytest.mark.parametrize("overrides", SOUND)
def test_it_is_what_hydra_composes(overrides):
    same(overrides)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_documented_command_is_what_hydra_composes(name):
    words = [word for word in COMMANDS[name] if not word.startswith("stages.")]
    same(to_hydra(words, CONFIGS))


@pytest.mark.parametrize("overrides", REFUSED)
def test_it_refuses_what_hydra_refuses_in_its_words(overrides):
    with hydra_at(CONFIGS):
        with pytest.raises(REFUSALS) as by_hydra:
            plainly(overrides)
        for _ in range(2):
            with pytest.raises(type(by_hydra.value)) as ours:
                compose_quietly(overrides)
            assert str(ours.value) == str(by_hydra.value)


def test_files_are_read_once(monkeypatch):
    with hydra_at(CONFIGS):
        compose_quietly(["recipe=fixmatch", "seed=1"])
        monkeypatch.delattr(composing, "composed_by_hydra")
        assert compose_quietly(["recipe=fixmatch", "seed=2"]).seed == 2


def test_what_is_done_to_a_config_is_not_remembered():
    with hydra_at(CONFIGS):
        first = compose_quietly(["recipe=fixmatch"])
        before = everything(first)
        OmegaConf.set_struct(first, False)
        first.optimizer.lr = first.hydra.job.name = "changed"
        assert everything(compose_quietly(["recipe=fixmatch"])) == before


def test_a_file_that_changes_is_read_again(tmp_path):
    root = tmp_path / "configs"
    shutil.copytree(CONFIGS, root)
    with hydra_at(root):
        assert "mine" not in compose_quietly(["recipe=supervised"])
        recipe = root / "recipe" / "supervised.yaml"
        recipe.write_text("# @package _global_\nmine: 1\n")
        assert compose_quietly(["recipe=supervised"]).mine == 1
        (root / "optimizer" / "own.yaml").write_text("lr: 7\n")
        assert compose_quietly(["recipe=supervised", "optimizer=own"]).optimizer.lr == 7


def test_a_link_to_nothing_or_to_its_own_folder_does_no_harm(tmp_path):
    root = tmp_path / "configs"
    shutil.copytree(CONFIGS, root)
    (root / "nothing.yaml").symlink_to(root / "gone.yaml")
    (root / "again").symlink_to(root)
    with hydra_at(root):
        assert compose_quietly(["recipe=supervised", "seed=4"]).seed == 4


def test_another_folder_is_another_config(tmp_path):
    root = tmp_path / "configs"
    shutil.copytree(CONFIGS, root)
    (root / "recipe" / "supervised.yaml").write_text("# @package _global_\nmine: 1\n")
    with hydra_at(CONFIGS):
        compose_quietly(["recipe=supervised"])
    with hydra_at(root):
        assert compose_quietly(["recipe=supervised"]).mine == 1


@pytest.mark.parametrize("where", ["command", "file"])
def test_groups_of_a_further_folder_are_found(tmp_path, where):
    further, root = tmp_path / "further", tmp_path / "configs"
    (further / "shelf").mkdir(parents=True)
    (further / "shelf" / "one.yaml").write_text("name: one\n")
    shutil.copytree(CONFIGS, root)
    path = f"file://{further}"
    overrides = ["+shelf=one", "seed=3"]
    if where == "command":
        overrides.append(f"hydra.searchpath=[{path}]")
    else:
        config = root / "config.yaml"
        lines = config.read_text().replace("\nhydra:\n", f"\nhydra:\n  searchpath: ['{path}']\n")
        config.write_text(lines)
    with hydra_at(root):
        for _ in range(2):
            composed = compose_quietly(overrides)
            assert (composed.shelf.name, composed.seed) == ("one", 3)


def test_a_process_remembers_a_bounded_number(monkeypatch):
    monkeypatch.setattr(composing, "MOST", 2)
    with hydra_at(CONFIGS):
        for recipe in ("fixmatch", "supervised", "fixmatch", "crt"):
            compose_quietly([f"recipe={recipe}"])
    names = [key[-1] for key in composing._REMEMBERED]
    assert names == ["recipe=fixmatch", "recipe=crt"]  # the one that was used longest ago is gone
