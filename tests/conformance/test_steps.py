"""Six steps of every method on every kind of data: they run, what should move has moved after
three, and the effect is alive."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.tensor_files import read_tensors
from recipes.contract import Method
from recipes.setup.assemble import assemble
from tests.support.lab import STEPS, STOP, Outcome, alone, differs, quiet, six_steps, trial, unequal
from tests.support.tiny_runs import (
    KINDS,
    METHODS,
    declared,
    method_and_kind,
    params_by_kind,
    run_of,
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
def test_six_steps(key, kind):
    outcome, _ = six_steps(kind, key)
    assert outcome.trainer.global_step == STEPS
    for step in range(1, STEPS + 1):
        row = outcome.history[step]
        supervised = [name for name in row if name.startswith("train/supervised")]
        assert {"train/loss", "train/lr"} <= row.keys() and supervised
        assert all(math.isfinite(value) for value in row.values()), row
    assert all(0 <= outcome.history[step]["val/accuracy"] <= 1 for step in (STOP, STEPS))


@EACH
def test_what_should_move_moves(key, kind):
    outcome, checkpoint = six_steps(kind, key)
    after_three = read_tensors(checkpoint)["state_dict"]
    moved = {
        name
        for name, _ in outcome.recipe.named_parameters()
        if not torch.equal(outcome.start[name], after_three[name])
    }
    trained = {name for name, p in outcome.recipe.named_parameters() if p.requires_grad}
    # averages, and snapshots that the method takes anew
    copies = {
        name
        for name, _ in outcome.recipe.named_parameters()
        if name.startswith(("teacher.", "networks.frozen."))
    }
    assert trained, "nothing is trained"
    assert trained - moved == set(), "trained, but did not move"
    assert moved - copies <= trained, "frozen, but moved"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [key for key in METHODS if declared(key).teacher])
def test_the_teacher_lags(key, kind):
    student, teacher = lengths(six_steps(kind, key)[0], "teacher.network")
    assert 0 < teacher < student


@pytest.mark.parametrize(("key", "kind"), params_by_kind())
def test_the_effect_is_alive(key, kind):
    """Other weights, or other evaluated logits, than the same run without the method; its terms are
    not zero. On texts the default trials watch each point of a method in `test_groups.py`."""
    outcome, plain = quiet(kind, key), quiet(kind, beside=[key])
    assert differs(outcome, plain)
    own = outcome.terms - plain.terms
    assert all(
        any(outcome.history[step][f"train/{term}"] != 0 for step in (1, 2, 3)) for term in own
    )
    if "unlabeled_loss" in declared(key).tags:
        assert own, "the method adds no term"


def held(value: object, registered: set[int], path: str, seen: set[int]) -> Iterator[str]:
    """Paths of tensors, and of modules that no recipe has, in what an object holds."""
    if id(value) in seen or id(value) in registered:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor | np.ndarray | nn.Module):
        yield path
    elif isinstance(value, partial):
        yield from held([value.func, value.args, value.keywords], registered, path, seen)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from held(entry, registered, f"{path}[{key!r}]", seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for i, entry in enumerate(value):
            yield from held(entry, registered, f"{path}[{i}]", seen)
    elif hasattr(value, "__self__"):
        yield from held(value.__self__, registered, f"{path}.__self__", seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        for name, entry in vars(value).items():
            yield from held(entry, registered, f"{path}.{name}", seen)


@EACH
def test_a_method_holds_no_tensor(key, kind):
    """What lives for the run is in modules that `build` registered, what lives for a batch in
    `step.scratch`."""
    recipe = six_steps(kind, key)[0].recipe
    registered = {id(module) for module in recipe.modules()}
    method = recipe.composition.methods[key]
    assert list(held(method, registered, key, set())) == []


def test_tensors_are_found_wherever_a_method_may_hide_them():
    @dataclass
    class Hidden:
        x: torch.Tensor

    class Hiding(Method):
        def __init__(self):
            self.plain = torch.zeros(1)
            self.listed = [{"a": (torch.zeros(1),)}]
            self.inside = Hidden(torch.zeros(1))
            self.bound = partial(torch.add, torch.zeros(1))
            self.layer = nn.Linear(1, 1)

    method = Hiding()
    assert list(held(method, set(), "m", set())) == [
        *("m.plain", "m.listed[0]['a'][0]", "m.inside.x", "m.bound[1][0]", "m.layer")
    ]
    assert "m.layer" not in held(method, {id(method.layer)}, "m", set())


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
