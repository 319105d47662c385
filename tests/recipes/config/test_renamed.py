"""Keys and values of earlier versions, on the command line, in a user's yaml, in the config of a
run; the resume of a run of version 0.1 is in tests/commands."""

import pytest
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.config.renamed import (
    CHOICES,
    KEYS,
    VALUES,
    renamed_override,
    renamed_overrides,
    with_current_keys,
)
from recipes.config.resolve import resolve_command
from recipes.config.signatures import find_target, fits, signature
from recipes.pairs import listed
from recipes.sweeps.record import identity

KEPT = "methods.fixmatch.mask_reduction=kept"
CONFIDENT = "methods.fixmatch.mask_reduction=confident"
LINE = "trainer.update=loop is called trainer.optimizer_impl=loop now; the old name still works"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trainer.update=loop", "trainer.optimizer_impl=loop"),
        ("trainer.update=loop,foreach", "trainer.optimizer_impl=loop,foreach"),
        ("stages.a.trainer.update=loop", "stages.a.trainer.optimizer_impl=loop"),
        ("++stage_keys.a.trainer.update=loop", "++stage_keys.a.trainer.optimizer_impl=loop"),
        (KEPT, CONFIDENT),
        ("methods.classifier_retraining.bn=drift", "methods.crt.bn=drift"),
        ("stages.a.methods.classifier_retraining.bn=drift", "stages.a.methods.crt.bn=drift"),
        ("~methods.classifier_retraining", "~methods.crt"),
        ("long_tail=classifier_retraining", "long_tail=crt"),
        ("long_tail=[classifier_retraining,bags]", "long_tail=[crt,bags]"),
        ("stages.a.long_tail=classifier_retraining", "stages.a.long_tail=crt"),
        (f"++{KEPT}", f"++{CONFIDENT}"),
        (
            "methods.flexmatch.mask_reduction=all,kept",
            "methods.flexmatch.mask_reduction=all,confident",
        ),
    ],
)
def test_an_override_is_translated_with_a_line(old, new):
    today, line = renamed_override(old)
    assert today == new and line.startswith(f"{old} is called {new} now")


@pytest.mark.parametrize(
    "override",
    [
        "trainer.max_steps=3",
        "methods.classifier_retrainings.bn=freeze",
        "methods.ema.moments=kept",
        "recipe=x",
        "-m",
        "~trainer",
    ],
)
def test_other_overrides_are_left_alone(override):
    assert renamed_overrides([override]) == ([override], [])


def test_todays_names_exist():
    """The table leads to keys that a config may have, with values that fit."""
    trainer = signature(find_target("recipes.engine.trainer.TrainerSettings")).arguments
    methods = listed()
    for key in KEYS.values():
        part, name = key.split(".")
        assert name in {"trainer": trainer, "methods": methods}[part]
    for group, choices in CHOICES.items():
        assert all(methods[new].family == group for new in choices.values())
        assert not choices.keys() & methods.keys()
    for key, values in VALUES.items():
        _, method, option = key.split(".")
        command = [f"semi_supervised={method}", "run_dir=unused"]
        node = resolve_command(command).config.methods[method]
        annotation = signature(find_target(node._target_)).arguments[option].annotation
        assert all(
            fits(new, annotation) and not fits(old, annotation) for old, new in values.items()
        )


def test_on_the_command_line():
    command = resolve_command(["recipe=fixmatch", "trainer.update=loop", KEPT, "run_dir=unused"])
    assert (
        command.config.trainer.optimizer_impl == "loop" and "update" not in command.config.trainer
    )
    assert command.config.methods.fixmatch.mask_reduction == "confident"
    assert command.lines[0] == LINE and len(command.lines) == 2


def test_in_a_users_yaml(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /semi_supervised: fixmatch\n"
        "trainer:\n  update: foreach\nmethods:\n  fixmatch:\n    mask_reduction: kept\n"
    )
    own = [f"hydra.searchpath=[file://{tmp_path}]", "recipe=mine", "run_dir=unused"]
    command = resolve_command(own)
    assert command.config.trainer.optimizer_impl == "foreach"
    assert "update" not in command.config.trainer
    assert command.config.methods.fixmatch.mask_reduction == "confident"
    assert len(command.lines) == 2 and "trainer.optimizer_impl" in command.lines[0]
    # the command line wins over the file, by whatever name
    for name in ("update", "optimizer_impl"):
        config = resolve_command([*own, f"trainer.{name}=loop"]).config
        assert config.trainer.optimizer_impl == "loop"


def test_in_the_overrides_of_a_stage():
    command = resolve_command(["stages={a: ['trainer.update=loop'], b: []}", "run_dir=unused"])
    assert command.config.stages.a.trainer.optimizer_impl == "loop"
    assert command.config.stages.b.trainer.optimizer_impl == "auto"
    assert command.lines == [LINE]


STAGED = "stages={a: [], b: ['long_tail=[classifier_retraining,class_balanced_sampling]']}"


def test_a_method_with_another_key():
    line = "long_tail=classifier_retraining is called long_tail=crt now; the old name still works"
    command = resolve_command(
        ["long_tail=classifier_retraining", "methods.classifier_retraining.bn=drift", "run_dir=x"]
    )
    assert command.config.methods.crt.bn == "drift" and len(command.config.methods) == 1
    assert command.lines[0] == line and len(command.lines) == 2
    command = resolve_command([STAGED, "methods.classifier_retraining.bn=drift", "run_dir=x"])
    assert list(command.config.stages.b.methods) == ["crt", "class_balanced_sampling"]
    assert command.config.stages.b.methods.crt.bn == "drift"


def test_a_method_with_another_key_in_a_users_yaml(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /long_tail: crt\n"
        "methods:\n  classifier_retraining:\n    bn: drift\n    reinitialize: false\n"
    )
    own = [f"hydra.searchpath=[file://{tmp_path}]", "recipe=mine", "run_dir=unused"]
    methods = resolve_command(own).config.methods
    assert list(methods) == ["crt"]
    assert (methods.crt.bn, methods.crt.reinitialize) == ("drift", False)
    methods = resolve_command([*own, "methods.crt.bn=freeze"]).config.methods
    assert (methods.crt.bn, methods.crt.reinitialize) == ("freeze", False)


def test_a_choice_in_a_users_list_of_defaults_is_named(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /long_tail: classifier_retraining\n"
    )
    with pytest.raises(UserError, match=r"no long_tail 'classifier_retraining'; it is called crt"):
        resolve_command([f"hydra.searchpath=[file://{tmp_path}]", "recipe=mine", "run_dir=x"])


def test_a_method_keeps_its_place_in_the_config_of_an_earlier_run():
    node = {"_target_": "methods.long_tail.classifier_retraining.ClassifierRetraining", "bn": "x"}
    old = {
        "methods": {"a": {}, "classifier_retraining": node, "b": {}},
        "chosen": {"long_tail": "[classifier_retraining,class_balanced_sampling]"},
    }
    new = with_current_keys(old)
    assert list(new["methods"]) == ["a", "crt", "b"]
    target = new["methods"]["crt"]["_target_"]
    assert target == "methods.long_tail.crt.ClassifierRetraining" and find_target(target)
    assert new["chosen"]["long_tail"] == "[crt,class_balanced_sampling]"


def test_the_config_of_an_earlier_run_is_translated_without_a_word(capsys):
    trainer = {"_target_": "recipes.settings.TrainerSettings", "update": "loop"}
    target = {"_target_": "methods.semi_supervised.fixmatch.FixMatch"}
    own = {"_target_": "mine.UDA"}
    fixmatch = target | {"mask_reduction": "kept"}
    methods = {"fixmatch": fixmatch, "ema": {"moments": "kept"}, "uda": own}
    old = {"trainer": trainer, "methods": methods, "stages": {"a": {"trainer": dict(trainer)}}}
    before = OmegaConf.to_yaml(OmegaConf.create(old))
    new = with_current_keys(old)
    current = {"_target_": "recipes.engine.trainer.TrainerSettings", "optimizer_impl": "loop"}
    assert new["trainer"] == current and new["stages"] == {"a": {"trainer": current}}
    assert new["methods"] == {
        # which came later, with what it was before
        "fixmatch": target | {"mask_reduction": "confident", "align": 0},
        "ema": {"moments": "kept"},
        "uda": own,
    }
    assert OmegaConf.to_yaml(OmegaConf.create(old)) == before, "what was given is untouched"
    assert capsys.readouterr().err == ""


def test_a_job_of_an_earlier_sweep_is_the_same_job():
    assert identity(["trainer.update=loop", "seed=1"]) == identity(
        ["seed=1", "trainer.optimizer_impl=loop"]
    )


@pytest.mark.parametrize("key", [*KEYS, *VALUES])
def test_an_interpolation_of_nothing_at_a_renamed_key_is_one_line(key):
    with pytest.raises(UserError) as refusal:
        resolve_command(
            ["recipe=fixmatch", "semi_supervised=[fixmatch,flexmatch]", f"{key}=${{nothing}}"]
        )
    assert len(str(refusal.value).splitlines()) == 1
