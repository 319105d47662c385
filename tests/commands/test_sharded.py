"""`trainer.strategy=fsdp`: every device has a part of each parameter, for methods that declare
it."""

import pytest

from tests.commands.test_resume import same, weights
from tests.commands.test_several_ranks import RUN, far, finish, kill_after, start
from tests.support.command import QUIET, read_metrics, roux

# data and method of RUN are given again: the last choice counts
SUPERVISED = (
    "recipe=supervised",
    "data.labels_per_class=null",
    "data.imbalance_factor=20",
    "data.batch_size=16",
)
FIVE = (*SUPERVISED, "trainer.max_steps=5", "trainer.val_every=5", "trainer.log_every=1")
PARTS = ("trainer.devices=2", "trainer.strategy=fsdp")
METHODS = {
    "none": ("optimizer=adamw", "trainer.gradient_clip_val=1"),
    "logit_adjustment": ("long_tail=logit_adjustment", "regularization=label_smoothing"),
    "balanced_softmax": ("long_tail=balanced_softmax",),
    "costs": ("long_tail=[class_balanced_loss,focal_loss]",),
}


@pytest.mark.slow
@pytest.mark.parametrize("methods", METHODS)
def test_in_parts_on_two_ranks_is_whole_on_one(methods, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(*FIVE, *METHODS[methods], "trainer.devices=1", f"run_dir={whole}")
    finish(*FIVE, *METHODS[methods], *PARTS, f"run_dir={parts}")
    assert far(whole, parts) <= 1e-6
    for one, two in zip(read_metrics(whole), read_metrics(parts), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_identically(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    own = (*SUPERVISED, *METHODS["logit_adjustment"], *PARTS)
    finish(*own, f"run_dir={whole}")
    kill_after(cut, 3, start(*own, f"run_dir={cut}"))
    finish(*own, f"run_dir={cut}")
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert same(weights(cut)[part], weights(whole)[part]), part
    assert read_metrics(cut) == read_metrics(whole)
    chosen = (
        *RUN,
        *SUPERVISED,
        *METHODS["logit_adjustment"],
        "trainer.devices=1",
        "trainer.strategy=auto",
    )
    outcome = roux(*QUIET, *chosen, f"resume={cut}", "run_dir=other")
    assert (
        outcome.code == 2 and "parameters: in parts (fsdp), but this run has whole" in outcome.err
    )


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (
            ("recipe=fixmatch",),
            "is not declared exact by semi_supervised=fixmatch, averaging=ema; leave out",
        ),
        (
            ("averaging=ema", "long_tail=balanced_softmax"),
            "is not declared exact by averaging=ema; leave",
        ),
        (("evaluate.attack=pgd",), "a measurement under evaluate needs whole parameters"),
        (("trainer.devices=1",), "trainer.devices=1; expected a number of at least 2"),
        (("trainer.strategy=deepspeed_stage_2",), "is not among the ways to split parameters here"),
    ],
)
def test_what_cannot_bear_parts_is_refused(extra, line, place):
    outcome = roux(*QUIET, *PARTS, *extra, "run_dir=run")
    assert outcome.code == 2 and len(outcome.lines) == 1 and line in outcome.lines[0], outcome.err
    assert not (place / "run").exists()
