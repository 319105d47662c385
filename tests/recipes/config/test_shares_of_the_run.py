"""Settings that count steps take a share of the run, so that a recipe holds at any length."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from foundation.types import StepsOrShare, steps_of
from recipes.config.docstrings import settings
from recipes.config.groups import CONFIGS, families
from recipes.config.signatures import find_target, signature
from recipes.config.validation import targets
from recipes.step.ramps import Ramp, decay_within
from recipes.step.step import Progress

LENGTHS = (40, 300, 1000, 3000)
# intervals, not parts of a run
INTERVALS = {"update_every", "window", "refresh"}


def method_settings() -> Iterator[tuple[type, str, str, Any]]:
    """Class, name, description and annotation of every setting of every method and schedule."""
    for family in (*families(CONFIGS), "scheduler"):
        for file in sorted((CONFIGS / family).glob("*.yaml")):
            tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            for _, node in targets(tree, family):
                target = find_target(node["_target_"])
                texts = settings(target)
                for name, argument in signature(target).arguments.items():
                    yield target, name, texts.get(name, ""), argument.annotation


def test_settings_that_count_steps_of_the_run_may_be_shares():
    counting = [entry for entry in method_settings() if "optimizer steps" in entry[2]]
    assert {name for _, name, _, _ in counting} >= {"warmup_steps", "start", "update_every"}
    for target, name, _, annotation in counting:
        assert name in INTERVALS or annotation == StepsOrShare, (target, name)


@pytest.mark.parametrize("total", LENGTHS)
def test_ramps_of_all_methods_are_full_before_the_end_and_low_at_the_start(total):
    found = 0
    for target in {entry[0] for entry in method_settings()}:
        arguments = signature(target).arguments
        if not {"ramp_end", "weight"} <= arguments.keys():
            continue
        ramp = target().ramp
        assert ramp(Progress(total, total)) == 1.0, target
        if ramp.kind != "constant":
            assert ramp(Progress(0, total)) < 0.01, target
            found += 1
    assert found >= 5


@pytest.mark.parametrize("total", LENGTHS)
def test_equal_shares_of_runs_of_any_length_are_equal(total):
    assert steps_of(0.1, total) == total // 10 and steps_of(7, total) == 7
    assert Ramp("linear", end=0.5)(Progress(total // 4, total)) == pytest.approx(0.5)
    assert (1 - decay_within(0.999, 0.05, total)) * total == pytest.approx(20)


def test_a_share_is_at_least_one_step_and_none_is_none():
    assert steps_of(0.001, 40) == 1
    assert steps_of(0, 40) == steps_of(0.0, 40) == 0
