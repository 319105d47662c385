"""`supervised_weight`: the tasks' own loss beside those of methods, or none of it."""

import pytest
import torch

from foundation.errors import ConfigErrors, UserError
from recipes.config.resolve import resolve_command
from recipes.setup.assemble import assemble
from tests.support.lab import alone, trial, unequal
from tests.support.tiny_runs import run_of, tiny


def test_it_is_a_key_of_the_root_with_a_range():
    assert resolve_command(tiny("image")).config.supervised_weight == 1.0
    with pytest.raises(
        ConfigErrors, match=r"supervised_weight: got -1, expected a number at least 0"
    ):
        resolve_command([*tiny("image"), "supervised_weight=-1"])


def test_zero_trains_the_metric_loss_alone_and_freezes_the_heads():
    retrieval = {"evaluate.retrieval": {"_target_": "recipes.evaluation.retrieval.Retrieval"}}
    outcome = trial(run_of("image", "triplet", supervised_weight=0.0, **retrieval))
    assert outcome.terms == {"triplet"}
    assert outcome.history[3]["train/loss"] == outcome.history[3]["train/triplet"]
    head = "network.heads.label.weight"
    assert torch.equal(outcome.start[head], outcome.state[head])
    moved = [
        name
        for name in unequal(outcome.start, outcome.state)
        if name.startswith("network.backbone.")
    ]
    assert moved


def test_a_half_is_half_of_the_loss():
    half, whole = trial(run_of("image", supervised_weight=0.5)), alone("image")
    assert half.history[1]["train/supervised"] == pytest.approx(
        whole.history[1]["train/supervised"]
    )
    assert half.history[1]["train/loss"] == pytest.approx(whole.history[1]["train/loss"] / 2)


def test_nothing_to_train_on_is_said_in_one_line():
    with pytest.raises(
        UserError, match=r"supervised_weight=0: leaves no loss .*metric_learning"
    ) as refusal:
        assemble(run_of("image", supervised_weight=0.0))
    assert "\n" not in str(refusal.value)
