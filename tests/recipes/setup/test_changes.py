"""Two configs, leaf by leaf: what differs, what passes, what older versions did not have."""

import pytest
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.setup.changes import PLACE, config_text, differences, parsed

OLD = {
    "run_dir": "outputs/a/teacher",
    "recipe": "supervised",
    "seed": 0,
    "monitor": "val/accuracy",
    "logger": {},
    "trainer": {"max_steps": 8, "val_every": None, "precision": "auto"},
    "optimizer": {"_target_": "recipes.optimization.optimizers.SGD", "lr": 0.03, "nesterov": True},
    "network": {"checkpoint": "outputs/a/first/checkpoints/last.ckpt", "options": {"width": 8}},
    "methods": {"ema": {"_target_": "methods.averaging.ema.EMA", "decay": 0.9}},
    "data": {"root": None, "num_workers": 0, "tasks": ["label"]},
}


def changed(**leaves):
    """OLD with other values by dotted key, double underscores for dots."""
    tree = OmegaConf.create(OLD)
    for key, value in leaves.items():
        OmegaConf.update(tree, key.replace("__", "."), value, force_add=True)
    return OmegaConf.to_container(tree)


@pytest.mark.parametrize(
    ("leaves", "found"),
    [
        ({}, []),
        ({"optimizer__lr": 0.1, "seed": 1}, ["seed 0 -> 1", "optimizer.lr 0.03 -> 0.1"]),
        ({"trainer__precision": "64-true"}, ["trainer.precision auto -> 64-true"]),
        ({"data__tasks": ["label", "parity"]}, ["data.tasks [label] -> [label,parity]"]),
        ({"optimizer__nesterov": 1}, ["optimizer.nesterov true -> 1"]),
        # folder of the run, what is shown, measured and saved
        (
            {
                "trainer__val_every": 4,
                "trainer__devices": 2,
                "data__root": "there",
                "data__num_workers": 4,
            },
            [],
        ),
        (
            {
                "logger": {"wandb": {"_target_": "x.WandB", "project": "p"}},
                "evaluate": {"attack": {"eps": 1}},
            },
            [],
        ),
        ({"chosen": {"recipe": "b"}, "recipe": "other"}, []),
        ({"recipe": "other", "seed": 1}, ["recipe supervised -> other", "seed 0 -> 1"]),
        ({"monitor": None}, []),
        ({"monitor": "val/loss"}, ["monitor val/accuracy -> val/loss"]),
        # settings of newer versions
        ({"methods__ema__horizon": None, "methods__ema__moments": "kept", "trainer__newer": 3}, []),
        ({"methods__ema__horizon": 100}, ["methods.ema.horizon null -> 100"]),
        # entries of free mappings, and objects that were not there
        ({"network__options__depth": 2}, ["network.options.depth unset -> 2"]),
        (
            {"methods__new": {"_target_": "methods.x.New", "weight": 1}},
            ["methods.new unset -> New"],
        ),
        (
            {"optimizer": {"_target_": "recipes.optimization.optimizers.Lion", "lr": 1}},
            ["optimizer SGD -> Lion"],
        ),
    ],
)
def test_differences(leaves, found):
    assert list(map(str, differences(OLD, changed(**leaves)))) == found


def test_a_folder_with_several_runs_may_have_been_moved():
    moved = {"run_dir": "there/teacher", "network__checkpoint": "there/first/checkpoints/last.ckpt"}
    assert differences(OLD, changed(**moved)) == []
    assert (
        len(differences(OLD, changed(**moved | {"network__checkpoint": "elsewhere/last.ckpt"})))
        == 1
    )


def test_what_is_measured_matters_to_a_finished_run():
    (found,) = differences(
        OLD, changed(data__few_below=5) | {"evaluate": {"a": {"_target_": "x.A"}}}, tuple(PLACE)
    )
    assert str(found) == "evaluate.a unset -> A"


def test_a_config_as_text_has_no_interpolations_and_tells_of_changes():
    assert parsed("# from step 3 on: seed 0 -> 1\na: b\nseed: 1\n", "resume") == {
        "a": "b",
        "seed": 1,
    }
    with pytest.raises(UserError, match=r"resume: 'last\.ckpt': .*a"):
        parsed("a: ${oc.env:HOME}\nseed: 1\n", "resume: 'last.ckpt'")
    assert config_text(
        OmegaConf.create({"seed": 1}), ["from step 3 on: seed 0 -> 1"]
    ).splitlines() == [
        "# from step 3 on: seed 0 -> 1",
        "seed: 1",
    ]


def test_names_of_an_earlier_version_are_no_difference():
    old = {
        "trainer": {"_target_": "recipes.settings.TrainerSettings", "update": "loop"},
        "methods": {"fixmatch": {"mask_reduction": "kept"}},
    }
    new = {
        "trainer": {"_target_": "recipes.engine.trainer.TrainerSettings", "optimizer_impl": "loop"},
        "methods": {"fixmatch": {"mask_reduction": "confident"}},
    }
    assert differences(old, new) == []
    new["methods"]["fixmatch"]["mask_reduction"] = "all"
    (difference,) = differences(old, new)
    assert str(difference) == "methods.fixmatch.mask_reduction confident -> all"
