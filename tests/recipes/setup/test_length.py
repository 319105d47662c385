"""`trainer.max_epochs`: passes of a stream become steps when the samples are counted."""

import pytest

from foundation.errors import UserError
from recipes.runs.start import ready, start

RUN = [
    "data=digits",
    "data.batch_size=64",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "+network.options.width=8",
]
SAMPLES = 1167  # labeled ones of digits beside validation


def run(folder, *more):
    return start(ready([*RUN, *more, f"run_dir={folder}"]))


def steps_of(folder):
    rows = (folder / "metrics.csv").read_text().splitlines()
    return int(rows[-1].split(",")[0])


def plan_of(folder):
    return (folder / "plan.txt").read_text()


def test_passes_of_the_labeled_samples(tmp_path):
    run(tmp_path, "trainer.max_epochs=2", "scheduler=cosine")
    steps = round(2 * SAMPLES / 64)
    assert steps_of(tmp_path) == steps
    assert f"{steps} steps, 2 passes of the labeled samples" in plan_of(tmp_path)
    assert f"every {steps // 10} steps on the validation part" in plan_of(tmp_path)


def test_a_step_of_several_micro_batches_takes_as_many_samples(tmp_path):
    run(tmp_path, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=3")
    assert steps_of(tmp_path) == round(2 * SAMPLES / (3 * 64))


def test_passes_of_the_unlabeled_samples(tmp_path):
    more = ["recipe=fixmatch", "data.batch_size=16", "data.unlabeled_ratio=4"]
    run(tmp_path, *more, "trainer.max_epochs=0.5", "trainer.epoch_of=unlabeled")
    steps = round(0.5 * SAMPLES / 64)
    assert steps_of(tmp_path) == steps
    assert "0.5 passes of the unlabeled samples" in plan_of(tmp_path)


def test_a_plan_without_data_says_passes(tmp_path, capsys):
    run(tmp_path, "trainer.max_epochs=3", "scheduler=warmup", "dry_run=true")
    plan = capsys.readouterr().out
    assert "  3 passes of the labeled samples, precision" in plan
    assert "ten times in the run on the validation part" in plan


def test_a_resumed_run_is_as_long(tmp_path):
    short = ["trainer.max_epochs=0.5", "trainer.val_every=4", "checkpoint.every_n_steps=3"]
    run(tmp_path / "whole", *short)
    checkpoint = tmp_path / "whole" / "checkpoints" / "previous.ckpt"
    if not checkpoint.exists():  # removed when a run has ended
        checkpoint = tmp_path / "whole" / "checkpoints" / "best.ckpt"
    run(tmp_path / "again", *short, f"resume={checkpoint}")
    assert steps_of(tmp_path / "again") == steps_of(tmp_path / "whole") == round(0.5 * SAMPLES / 64)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["trainer.max_epochs=1", "trainer.max_steps=10"], r"max_epochs: the command gives .*too"),
        (["trainer.max_epochs=1", "trainer.epoch_of=unlabeled"], "no method of this run uses unl"),
        (["trainer.max_epochs=0"], r"trainer\.max_epochs: got 0, expected"),
        (["trainer.max_epochs=1", "trainer.epoch_of=test"], r"trainer\.epoch_of: got 'test'"),
    ],
)
def test_what_is_no_length_is_one_line(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, *overrides)
    assert "\n" not in str(caught.value)
