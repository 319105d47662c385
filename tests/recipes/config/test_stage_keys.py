"""`stages.NAME.KEY=VALUE`: a key of one stage, alone or in a sweep."""

import pytest

from foundation.errors import ConfigErrors
from recipes.config.resolve import resolve_command
from recipes.config.stage_keys import (
    split_stage_keys,
    stage_keys_from_hydra,
    stage_keys_to_hydra,
)


def stages(*command: str):
    return resolve_command([*command, "run_dir=unused"]).config.stages


@pytest.mark.parametrize(
    ("recipe", "stage", "other"),
    [
        ("crt", "classifier", "representation"),
        ("noisy_student", "student", "teacher"),
        ("linear_probe_then_finetune", "probe", "finetune"),
    ],
)
def test_a_key_is_set_in_one_stage_and_wins_over_that_of_all(recipe, stage, other):
    alone = stages(f"recipe={recipe}", f"stages.{stage}.trainer.max_steps=10")
    assert alone[stage].trainer.max_steps == 10
    assert alone[other].trainer.max_steps > 10
    # the order of the command does not matter
    both = stages(f"recipe={recipe}", f"stages.{stage}.trainer.max_steps=10", "trainer.max_steps=7")
    assert (both[stage].trainer.max_steps, both[other].trainer.max_steps) == (10, 7)


def test_a_stage_chooses_methods_and_adds_keys():
    chosen = stages("recipe=crt", "stages.classifier.long_tail=crt")
    assert list(chosen.classifier.methods) == ["crt"]
    chosen = stages("recipe=crt", "stages.representation.evaluate.attack=pgd")
    assert chosen.representation.evaluate.attack and not chosen.classifier.get("evaluate")
    chosen = stages(
        "recipe=crt",
        "network.name=digits_cnn",
        "+stages.classifier.network.options.width=8",
        "stages.classifier.methods.crt.bn=drift",
    )
    assert chosen.classifier.network.options.width == 8
    assert not chosen.representation.network.options
    assert chosen.classifier.methods.crt.bn == "drift"


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "stages.clasifier.trainer.max_steps=10",
            "stages.clasifier.trainer.max_steps: there is no stage 'clasifier'; did you mean "
            "'classifier'?",
        ),
        (
            "stages.classifier.trainer.max_stepz=10",
            "stages.classifier: trainer.max_stepz: unknown key; did you mean 'trainer.max_steps'?",
        ),
        (
            "stages.classifier.trainer.max_steps=-1",
            "stages.classifier: trainer.max_steps: got -1, expected a whole number at least 0",
        ),
        (
            "stages.classifier.run_dir=here",
            "stages.classifier.run_dir: is the same in all stages; write run_dir=here",
        ),
        (
            "stages.representation.methods.crt.bn=drift",
            "stages.representation: methods.crt.bn: method "
            "'crt' is not part of this run; add long_tail=crt",
        ),
        (
            "stages.classifier.long_tail=focal_los",
            "stages.classifier: long_tail=focal_los: there is no long_tail 'focal_los'; did you "
            "mean 'focal_loss'?",
        ),
    ],
)
def test_mistakes_are_one_line_with_the_nearest_name(override, line):
    with pytest.raises(ConfigErrors) as refusal:
        stages("recipe=crt", override)
    assert list(map(str, refusal.value.errors)) == [line]


def test_a_run_without_stages_says_so():
    with pytest.raises(ConfigErrors, match=r"this run has no stages; write trainer\.max_steps=3"):
        resolve_command(["recipe=supervised", "stages.probe.trainer.max_steps=3", "run_dir=unused"])


def test_hydra_gets_them_under_a_root_of_their_own():
    command = ["seed=0,1", "stages.a.x.y=1,2", "+stages.a.x.z=[1]", "stages.a=['seed=1']"]
    spelled = stage_keys_to_hydra(command)
    assert spelled == [
        "seed=0,1",
        "++stage_keys.a.x.y=1,2",
        "++added_stage_keys.a.x.z=[1]",
        "stages.a=['seed=1']",
    ]
    assert list(map(stage_keys_from_hydra, spelled)) == command
    common, by_stage = split_stage_keys(command)
    assert common == ["seed=0,1", "stages.a=['seed=1']"]
    assert by_stage == {"a": ["x.y=1,2", "+x.z=[1]"]}


def test_stages_that_are_taken_from_nothing_are_one_line():
    with pytest.raises(ConfigErrors) as refusal:
        stages("recipe=supervised", "stages=${nothing}")
    line = "stages: Interpolation key 'nothing' not found; expected null or a mapping of stages"
    assert str(refusal.value) == line
