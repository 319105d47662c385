"""A choice that Hydra would drop without a word is one line."""

import pytest

from recipes.config.choices import choice_errors
from recipes.config.groups import CONFIGS
from tests.support.command import roux

MISTAKES = {
    ("recipe=fixmatch", "recipe=uda"): "recipe: is chosen twice, fixmatch and uda; leave one out",
    ("semi_supervised=[fixmatch,fixmatch]",): "semi_supervised=[fixmatch,fixmatch]: names "
    "'fixmatch' twice; write semi_supervised=fixmatch",
    ("averaging=[ema, none]",): "averaging=[ema, none]: 'none' stands for no other in the list; "
    "write averaging=ema",
    ("long_tail=[none,none]",): "long_tail=[none,none]: names 'none' twice; write long_tail=none",
    ("logger=[tensorboard,tensorboard]",): "logger=[tensorboard,tensorboard]: names 'tensorboard' "
    "twice; write logger=tensorboard",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_one_line(overrides):
    outcome = roux(*overrides, "dry_run=true")
    assert outcome.lines == [f"error: {MISTAKES[overrides]}"]
    assert outcome.code == 2 and outcome.out == ""


def test_in_a_sweep_too():
    outcome = roux("-m", "seed=0,1", "averaging=[ema,none]")
    assert outcome.code == 2 and "'none' stands for no other" in outcome.err


@pytest.mark.parametrize(
    "overrides",
    [
        ["recipe=uda", "recipe=uda"],
        ["semi_supervised=[none]"],
        ["regularization=[mixup,label_smoothing]"],
        ["data=digits", "data=mnist"],
        ["seed=1", "seed=2"],  # a value: the later wins, as scripts that append expect
        ["data.source.tasks=[label,label]"],  # no group
        ["+averaging=none", "averaging=ema"],
    ],
)
def test_what_is_no_mistake_of_choices(overrides):
    assert choice_errors(overrides, CONFIGS) == []
