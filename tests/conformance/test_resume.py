"""A run that was stopped and resumed with fresh objects ends bit-equal to one that never stopped."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules.errors import UserError
from recipes.assembly import assemble
from tests.conformance.lab import METHODS, Outcome, declared, method_and_kind, run_of, trial, unequal

STEPS, STOP = 6, 3
SETTINGS: dict[str, Any] = {
    "trainer.max_steps": STEPS,
    # momentum and a rate that changes make state of optimizer and scheduler matter
    "scheduler": {"_target_": "recipes.schedulers.Cosine", "warmup_steps": 2, "final": 0.1},
}


class Copies(pl.Callback):
    """Keeps what the engine's own checkpoint of step STOP would be to a process that ends there."""

    def __init__(self, saved: Path, kept: Path):
        self.saved, self.kept = saved, kept

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == STOP and not self.kept.exists():
            shutil.copy(self.saved, self.kept)


def stopped_and_whole(folder: Path, *keys: str, kind: str = "image", **changes: Any) -> tuple[Outcome, Outcome]:
    """(resumed from step 3 with fresh objects, never stopped)."""
    config = run_of(kind, *keys, **SETTINGS | changes)
    # as `recipes.run.checkpoints` saves them
    save = ModelCheckpoint(folder, filename="last", every_n_train_steps=STOP, save_on_train_epoch_end=True)
    whole = trial(config, [save, Copies(folder / "last.ckpt", folder / "stopped.ckpt")])
    resumed = trial(config, resume=folder / "stopped.ckpt")
    return resumed, whole


def assert_equal(resumed: Outcome, whole: Outcome) -> None:
    assert resumed.trainer.global_step == whole.trainer.global_step == STEPS
    assert unequal(resumed.state, whole.state) == [], "parameters, buffers, teacher or method modules differ"
    assert unequal(resumed.logits, whole.logits) == []
    ours, theirs = (o.trainer.optimizers[0].state_dict() for o in (resumed, whole))
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for key, entry in theirs["state"].items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(ours["state"][key][name]), torch.as_tensor(value)), (key, name)
    schedulers = [o.trainer.lr_scheduler_configs[0].scheduler.state_dict() for o in (resumed, whole)]
    assert schedulers[0] == schedulers[1]
    later = [{step: row for step, row in o.history.items() if step > STOP} for o in (resumed, whole)]
    assert later[0] == later[1]
    assert sorted(later[0]) == [4, 5, 6]


@pytest.mark.parametrize(("key", "kind"), method_and_kind(), ids=lambda value: value)
def test_stop_and_resume(key, kind, tmp_path):
    """With validation right after the checkpoint, and once more at the end."""
    assert_equal(*stopped_and_whole(tmp_path, key, kind=kind))


@pytest.mark.parametrize("key", METHODS)
def test_stop_and_resume_with_accumulation(key, tmp_path):
    changes = {"trainer.accumulate_grad_batches": 2, "trainer.val_every": 2}
    if declared(key).accumulation:
        assert_equal(*stopped_and_whole(tmp_path, key, **changes))
    else:
        with pytest.raises(UserError, match=rf"{key}.*trainer.accumulate_grad_batches=2.*set it to 1"):
            assemble(run_of("image", key, **changes))


def test_many_methods_at_once(tmp_path):
    keys = ("fixmatch", "pi_model", "logit_adjustment", "mixup", "label_smoothing", "sam", "ema")
    assert_equal(*stopped_and_whole(tmp_path, *keys, **{"methods.logit_adjustment.adjust_unlabeled": True}))
