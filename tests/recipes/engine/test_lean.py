"""Hooks that are Lightning's own and do nothing are not called; all others are."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from recipes.engine.lean import EVERY_STEP, LeanModule, drop_empty_hooks
from tests.support.harness import Setup, build, fit


class Counts(Callback):
    def __init__(self):
        self.seen = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.seen.append(float(loss))


def test_what_nobody_fills_is_taken_away_and_nothing_else():
    counts, plain = Counts(), Callback()
    plain.on_train_batch_end = print
    for owner in (counts, plain, pl.LightningModule()):
        drop_empty_hooks(owner)
        own = {Counts: "on_before_backward", Callback: "on_train_batch_end"}.get(type(owner))
        assert [name for name in EVERY_STEP if callable(getattr(owner, name))] == (
            [own] if own else []
        )
    assert Counts().on_train_batch_end is not None  # other objects of the class keep theirs


def test_a_run_goes_the_same_way_and_filled_hooks_are_called():
    setup, runs = Setup(steps=4), []
    for quiet in (True, False):
        recipe, counts = build({}, setup), Counts()
        if quiet:
            assert recipe.on_before_zero_grad is None
            drop_empty_hooks(counts)
        else:
            for name in EVERY_STEP:
                vars(recipe).pop(name, None)
        runs.append((fit(recipe, setup, counts).losses, counts.seen))
    assert runs[0] == runs[1] and len(runs[0][1]) == 4


def test_gradients_are_taken_away_as_the_optimizer_does_or_by_its_own_way():
    class Counting(torch.optim.SGD):
        calls = 0

        def zero_grad(self, set_to_none=True):
            self.calls += 1
            super().zero_grad(set_to_none)

    for kind in (torch.optim.SGD, Counting):
        weights = [torch.ones(2, requires_grad=True) for _ in range(2)]
        optimizer = kind([{"params": weights[:1]}, {"params": weights[1:]}], lr=0.1)
        sum(weight.sum() for weight in weights).backward()
        LeanModule().optimizer_zero_grad(0, 0, optimizer)
        assert all(weight.grad is None for weight in weights)
        assert getattr(optimizer, "calls", 1) == 1


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_where_that_is_asked_for(algorithm):
    setup = Setup(steps=2)
    clipped, whole = (
        fit(build({}, setup), setup, gradient_clip_val=limit, gradient_clip_algorithm=algorithm)
        for limit in (1e-8, None)
    )
    start = setup.network().state_dict()
    for name, value in start.items():
        torch.testing.assert_close(clipped.parameters[name], value, atol=1e-6, rtol=0)
    assert any((whole.parameters[name] - value).abs().max() > 1e-3 for name, value in start.items())
