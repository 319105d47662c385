"""Three steps of every method on every kind of data: they run, what should move moves, and the
effect is alive."""

import math

import pytest
import torch

from foundation.errors import UserError
from recipes.runs.assembly import assemble
from tests.conformance.lab import (
    KINDS,
    METHODS,
    Outcome,
    alone,
    declared,
    differs,
    method_and_kind,
    quiet,
    run_of,
    trial,
    unequal,
)

EACH = pytest.mark.parametrize(("key", "kind"), method_and_kind(), ids=lambda value: value)
UNDECLARED = [
    (key, kind) for key in METHODS for kind in KINDS if kind not in declared(key).modalities
]


def lengths(outcome: Outcome, prefix: str) -> tuple[float, float]:
    """How far the student and the teacher have come from the start, ‖θ - θ₀‖ over trained
    parameters."""
    trained = [name for name, p in outcome.recipe.network.named_parameters() if p.requires_grad]
    start = {name: outcome.start[f"network.{name}"] for name in trained}
    return tuple(  # type: ignore[return-value]
        math.sqrt(
            sum(
                float((outcome.state[f"{net}.{name}"] - start[name]).square().sum())
                for name in trained
            )
        )
        for net in ("network", prefix)
    )


@EACH
def test_three_steps(key, kind):
    outcome = alone(kind, key)
    assert outcome.trainer.global_step == 3
    for step in (1, 2, 3):
        row = outcome.history[step]
        supervised = [name for name in row if name.startswith("train/supervised")]
        assert {"train/loss", "train/lr"} <= row.keys() and supervised
        assert all(math.isfinite(value) for value in row.values()), row
    assert 0 <= outcome.history[3]["val/accuracy"] <= 1


@EACH
def test_what_should_move_moves(key, kind):
    outcome = alone(kind, key)
    moved = {
        name
        for name, _ in outcome.recipe.named_parameters()
        if not torch.equal(outcome.start[name], outcome.state[name])
    }
    trained = {name for name, p in outcome.recipe.named_parameters() if p.requires_grad}
    averaged = {
        name for name, _ in outcome.recipe.named_parameters() if name.startswith("teacher.")
    }
    assert trained, "nothing is trained"
    assert trained - moved == set(), "trained, but did not move"
    assert moved - averaged <= trained, "frozen, but moved"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [key for key in METHODS if declared(key).teacher])
def test_the_teacher_lags(key, kind):
    student, teacher = lengths(alone(kind, key), "teacher.network")
    assert 0 < teacher < student


@EACH
def test_the_effect_is_alive(key, kind):
    """Other weights, or other evaluated logits, than the same run without the method; its terms are
    not zero."""
    outcome, plain = quiet(kind, key), quiet(kind, beside=[key])
    assert differs(outcome, plain)
    own = outcome.terms - plain.terms
    assert all(
        any(outcome.history[step][f"train/{term}"] != 0 for step in (1, 2, 3)) for term in own
    )
    if "unlabeled_loss" in declared(key).tags:
        assert own, "the method adds no term"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_repeats_bit_for_bit(kind):
    """Without this no difference above would mean anything."""
    again, before = trial(run_of(kind)), alone(kind)
    assert unequal(again.state, before.state) == unequal(again.logits, before.logits) == []


@pytest.mark.parametrize(("key", "kind"), UNDECLARED, ids=lambda value: value)
def test_an_undeclared_kind_is_refused_in_one_line(key, kind):
    with pytest.raises(UserError) as refusal:
        assemble(run_of(kind, key))
    (line,) = str(refusal.value).splitlines()
    data = {"image": "digits", "text": "text_file"}[kind]
    assert f"{METHODS[key].family}={key}" in line
    assert f"data={data}" in line
