"""A run that was stopped and resumed with fresh objects ends bit-equal to one that never
stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from recipes.setup.assemble import assemble
from tests.support.groups import once_each
from tests.support.lab import SIX_STEPS, STEPS, STOP, Outcome, saving, six_steps, trial, unequal
from tests.support.tiny_runs import KINDS, METHODS, declared, params_by_kind, run_of

# a resumed run needs no further checkpoints, so its trainer has other callbacks
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def stopped_and_whole(
    folder: Path, *keys: str, kind: str = "image", **changes: Any
) -> tuple[Outcome, Outcome]:
    """(resumed from step 3 with fresh objects, never stopped)."""
    config = run_of(kind, *keys, **SIX_STEPS | changes)
    whole = trial(config, [saving(folder, "last")])
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


ACCUMULATING = {"trainer.accumulate_grad_batches": 2, "trainer.val_every": 2}


def first_kind(key: str) -> str:
    return declared(key).modalities[0]


def accumulating(kind: str) -> list[str]:
    return [key for key in METHODS if declared(key).accumulation and first_kind(key) == kind]


TOGETHER = [(kind, group) for kind in KINDS for group in once_each(accumulating(kind), kind)]


@pytest.mark.parametrize(("key", "kind"), params_by_kind())
def test_stop_and_resume(key, kind):
    """With validation at the step of the checkpoint, for one method right after it and for the next
    right before."""
    whole, checkpoint = six_steps(kind, key)
    assert_equal(trial(run_of(kind, key, **SIX_STEPS), resume=checkpoint), whole)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [pytest.param(*case, id=f"{case[0]}-{'+'.join(case[1])}") for case in TOGETHER],
)
def test_stop_and_resume_with_accumulation(kind, keys, tmp_path):
    """Every method in one group; the slow trial has each by itself."""
    assert_equal(*stopped_and_whole(tmp_path, *keys, kind=kind, **ACCUMULATING))


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for kind in KINDS for key in accumulating(kind)])
def test_each_with_accumulation(key, tmp_path):
    assert_equal(*stopped_and_whole(tmp_path, key, kind=first_kind(key), **ACCUMULATING))


@pytest.mark.parametrize("key", [key for key in METHODS if not declared(key).accumulation])
def test_accumulation_is_refused(key):
    with pytest.raises(UserError, match=rf"{key}.*trainer.accumulate_grad_batches=2.*set it to 1"):
        assemble(run_of(first_kind(key), key, **ACCUMULATING))


def test_many_methods_at_once(tmp_path):
    keys = ("fixmatch", "pi_model", "logit_adjustment", "mixup", "label_smoothing", "sam", "ema")
    assert_equal(
        *stopped_and_whole(tmp_path, *keys, **{"methods.logit_adjustment.adjust_unlabeled": True})
    )
