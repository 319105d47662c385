"""Two heads, and half precision. fp16 needs a gradient scaler, which Lightning has on GPUs alone:
not tried here."""

import math
from functools import cache

import pytest
import torch

from foundation.errors import UserError
from recipes.setup.assemble import assemble
from tests.support.lab import SIX_STEPS, Outcome, differs, six_steps, trial
from tests.support.settings import NETWORK, ONCE
from tests.support.tiny_runs import METHODS, declared, network_for, params_by_kind, run_of

TASKS = {"data.source.tasks": ["label", "parity"]}
# methods of several tasks have two heads in every other trial
ON_IMAGES = [
    key
    for key in METHODS
    if "image" in declared(key).modalities and declared(key).tasks_at_least == 1
]


@cache
def without_methods(on_network_of: str | None) -> Outcome:
    network = network_for("image", on_network_of) if on_network_of else {}
    return trial(run_of("image", **network, **TASKS))


@pytest.mark.parametrize("key", ON_IMAGES)
def test_two_heads(key):
    """Both heads learn, every term of the method comes once a head, and the effect is alive."""
    outcome, plain = (
        trial(run_of("image", key, **TASKS)),
        without_methods(key if key in NETWORK else None),
    )
    assert all(math.isfinite(value) for row in outcome.history.values() for value in row.values())
    for task, classes in (("label", 10), ("parity", 2)):
        assert outcome.logits[task].shape[1] == classes
        weight = f"network.heads.{task}.weight"
        assert not torch.equal(outcome.start[weight], outcome.state[weight])
        assert 0 <= outcome.history[3][f"val/{task}/accuracy"] <= 1
    assert {term.removesuffix("/label") for term in outcome.terms if term.endswith("/label")} == {
        term.removesuffix("/parity") for term in outcome.terms if term.endswith("/parity")
    }
    single = six_steps("image", key)[0].terms
    assert len(outcome.terms) == 2 * len(single) - len(ONCE & set(single))
    assert differs(outcome, plain)


@pytest.mark.parametrize(("key", "kind"), params_by_kind())
def test_bf16(key, kind):
    config = run_of(kind, key, **SIX_STEPS | {"trainer.precision": "bf16-mixed"})
    precisions = declared(key).precisions
    if precisions is not None and "bf16-mixed" not in precisions:
        with pytest.raises(UserError, match=rf"{key}.*trainer.precision=bf16-mixed"):
            assemble(config)
        return
    outcome = trial(config)
    assert all(math.isfinite(value) for row in outcome.history.values() for value in row.values())
    assert all(value.isfinite().all() for value in outcome.state.values())
    assert all(value.dtype != torch.bfloat16 for value in outcome.state.values()), (
        "weights and averages stay fp32"
    )
    assert differs(outcome, six_steps(kind, key)[0]), "nothing was computed in half precision"
