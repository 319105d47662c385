"""A run that was stopped and resumed with fresh objects ends bit-equal to one that never
stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from foundation.errors import UserError
from recipes.runs.assembly import assemble
from tests.conformance.lab import (
    METHODS,
    Outcome,
    declared,
    method_and_kind,
    run_of,
    trial,
    unequal,
)

# a resumed run needs no further checkpoints, so its trainer has other callbacks
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
STEPS, STOP = 6, 3
SETTINGS: dict[str, Any] = {
    "trainer.max_steps": STEPS,
    # momentum and a rate that changes make state of optimizer and scheduler matter
    "scheduler": {
        "_target_": "recipes.optimization.schedulers.Cosine",
        "warmup_steps": 2,
        "final": 0.1,
    },
}


def saving(folder: Path, moment: str) -> ModelCheckpoint:
    """The engine's own kinds of checkpoint (`recipes.runs.run.checkpoints`), all of them kept:
    `last` is saved after a step and before the validation that follows it, `best` after that
    validation."""
    when: dict[str, Any] = {"every_n_train_steps": STOP, "save_on_train_epoch_end": True}
    if moment == "best":
        when = {"monitor": "val/accuracy", "mode": "max"}
    return ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, enable_version_counter=False, **when
    )


def stopped_and_whole(
    folder: Path, *keys: str, kind: str = "image", moment: str = "last", **changes: Any
) -> tuple[Outcome, Outcome]:
    """(resumed from step 3 with fresh objects, never stopped)."""
    config = run_of(kind, *keys, **SETTINGS | changes)
    whole = trial(config, [saving(folder, moment)])
    resumed = trial(config, resume=folder / f"step={STOP}.ckpt")
    return resumed, whole


def assert_equal(resumed: Outcome, whole: Outcome) -> None:
    assert resumed.trainer.global_step == whole.trainer.global_step == STEPS
    assert unequal(resumed.state, whole.state) == [], (
        "parameters, buffers, teacher or method modules differ"
    )
    assert unequal(resumed.logits, whole.logits) == []
    ours, theirs = (o.trainer.optimizers[0].state_dict() for o in (resumed, whole))
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for key, entry in theirs["state"].items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(ours["state"][key][name]), torch.as_tensor(value)), (
                key,
                name,
            )
    schedulers = [
        o.trainer.lr_scheduler_configs[0].scheduler.state_dict() for o in (resumed, whole)
    ]
    assert schedulers[0] == schedulers[1]
    later = [
        {step: row for step, row in o.history.items() if step > STOP} for o in (resumed, whole)
    ]
    assert later[0] == later[1]
    assert sorted(later[0]) == [4, 5, 6]


@pytest.mark.parametrize(("key", "kind"), method_and_kind(), ids=lambda value: value)
def test_stop_and_resume(key, kind, tmp_path):
    """With validation at the step of the checkpoint, on images right after it and on texts right
    before."""
    moment = {"image": "last", "text": "best"}[kind]
    assert_equal(*stopped_and_whole(tmp_path, key, kind=kind, moment=moment))


@pytest.mark.parametrize("key", METHODS)
def test_stop_and_resume_with_accumulation(key, tmp_path):
    changes = {"trainer.accumulate_grad_batches": 2, "trainer.val_every": 2}
    kind = declared(key).modalities[0]
    if declared(key).accumulation:
        assert_equal(*stopped_and_whole(tmp_path, key, kind=kind, **changes))
    else:
        with pytest.raises(
            UserError, match=rf"{key}.*trainer.accumulate_grad_batches=2.*set it to 1"
        ):
            assemble(run_of(kind, key, **changes))


def test_many_methods_at_once(tmp_path):
    keys = ("fixmatch", "pi_model", "logit_adjustment", "mixup", "label_smoothing", "sam", "ema")
    assert_equal(
        *stopped_and_whole(tmp_path, *keys, **{"methods.logit_adjustment.adjust_unlabeled": True})
    )
