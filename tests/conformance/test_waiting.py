"""No step makes the host wait for the device: views, forwards, terms, backward, optimizer,
averages, statistics."""

from typing import Any

import pytest
import torch
from torch import nn

from foundation import devices
from methods.multi_task.mgda import ENUMERATED, min_norm
from recipes.engine.recipe import Recipe
from tests.conformance.waiting import Waits
from tests.support.lab import trial
from tests.support.tiny_runs import method_and_kind, run_of


@pytest.fixture
def waits(monkeypatch):
    """What the steps of the runs in a test waited for; the transfer at the end of a logging
    interval is allowed."""
    found = Waits()
    step, publish = Recipe.optimizer_step, Recipe.publish

    def watched(self, *args, **kwargs):
        if self.trainer.global_step == 0:  # tables go to the device once
            return step(self, *args, **kwargs)
        with found.watch():
            return step(self, *args, **kwargs)

    def unwatched(self, *args):
        with found.paused():
            return publish(self, *args)

    monkeypatch.setattr(Recipe, "optimizer_step", watched)
    monkeypatch.setattr(Recipe, "publish", unwatched)
    # the way that a device goes
    monkeypatch.setattr(devices, "readable", lambda tensor: False)
    return found


def sampled() -> list[Any]:
    """Every method on every kind of data; methods that work on images are watched on texts by the
    slow trials."""
    cases = method_and_kind()
    later = {(key, "text") for key, kind in cases if kind == "image"}
    return [
        pytest.param(*case, marks=(pytest.mark.slow,) if case in later else ()) for case in cases
    ]


@pytest.mark.parametrize(("key", "kind"), sampled())
def test_a_step_waits_for_nothing(key, kind, waits):
    trial(run_of(kind, key))
    assert not waits.found, f"{key} on {kind}: {', '.join(waits.found)}"


def test_several_tasks_and_strong_views_on_texts_wait_for_nothing(waits):
    trial(run_of("image", "fixmatch", "logit_adjustment", "label_smoothing", "sam", "ema"))
    trial(run_of("text", "fixmatch", "lora", "freelb"))
    assert not waits.found


def test_the_exceptions_are_as_declared(monkeypatch):
    """MGDA of more than eight tasks solves on the host; `nonfinite=skip` must know before it goes
    on."""
    monkeypatch.setattr(devices, "readable", lambda tensor: False)
    waits, gram = Waits(), torch.eye(ENUMERATED + 1, dtype=torch.float64)
    with waits.watch():
        min_norm(gram[1:, 1:])
    assert not waits.found
    with waits.watch():
        min_norm(gram)
    assert any("multi_task/host.py" in line for line in waits.found)


def test_leaving_out_batches_waits_as_its_setting_says(waits):
    trial(run_of("image", **{"trainer.nonfinite": "skip"}))
    assert [line.split(":")[0] for line in waits.found] == ["recipes/engine/recipe.py"]


@pytest.mark.parametrize(
    ("reads", "name"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "cpu"),
        (lambda x: 1 if x.sum() else 0, "__bool__"),
        (lambda x: float(x.sum()), "__float__"),
        (lambda x: x[x > 0], "index"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: torch.where(x > 0), "nonzero"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: x * torch.tensor([1.0, 2.0, 3.0]), "tensor"),
        (
            lambda x: nn.functional.one_hot(x.long()),
            "_local_scalar_dense",
        ),  # looks for the number of classes
    ],
)
def test_what_would_wait_is_noticed(reads, name):
    waits = Waits()
    with waits.watch():
        reads(torch.ones(3))
    assert any(line.endswith(f" {name}") for line in waits.found), waits.found


def test_what_would_not_wait_is_not():
    waits, x = Waits(), torch.ones(3)
    with waits.watch():
        torch.where(x > 0, x, 0.0).sum().clamp_min(1)
        x[torch.arange(2)]
        x.masked_fill_(x > 2, 0.0)
    assert not waits.found
