"""Hooks that are Lightning's own and do nothing are not called; all others are."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from recipes.hooks import EVERY_STEP, hush
from tests.harness import Setup, build, fit


class Counts(Callback):
    def __init__(self):
        self.seen = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.seen.append(float(loss))


def test_what_nobody_fills_is_taken_away_and_nothing_else():
    counts, plain = Counts(), Callback()
    plain.on_train_batch_end = print
    for owner in (counts, plain, pl.LightningModule()):
        hush(owner)
        own = {Counts: "on_before_backward", Callback: "on_train_batch_end"}.get(type(owner))
        assert [name for name in EVERY_STEP if callable(getattr(owner, name))] == ([own] if own else [])
    assert Counts().on_train_batch_end is not None  # other objects of the class keep theirs


def test_a_run_goes_the_same_way_and_filled_hooks_are_called():
    setup, runs = Setup(steps=4), []
    for quiet in (True, False):
        recipe, counts = build({}, setup), Counts()
        if quiet:
            assert recipe.on_before_zero_grad is None
            hush(counts)
        else:
            for name in EVERY_STEP:
                vars(recipe).pop(name, None)
        runs.append((fit(recipe, setup, counts).losses, counts.seen))
    assert runs[0] == runs[1] and len(runs[0][1]) == 4
