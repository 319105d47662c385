"""Runs that are killed, stopped by a signal, or meet a full disk, a damaged file or a loss that is no
number lose nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from foundation.exit_codes import TO_CONTINUE
from recipes.checkpointing.files import being_written, whole, writing
from recipes.checkpointing.writing import LastCheckpoint
from recipes.engine.recipe import Recipe
from tests.commands.test_resume import interrupt_at, same, weights
from tests.support.command import QUIET, REPOSITORY, read_metrics, roux, train, write_pictures
from tests.support.processes import python

# a validation every 6 steps, a transfer every 5, a checkpoint every 4: none falls on the others
UNEVEN = (
    *("recipe=fixmatch", "data.labels_per_class=4", "data.batch_size=8", "data.unlabeled_ratio=1"),
    *(
        "trainer.max_steps=14",
        "trainer.val_every=6",
        "trainer.log_every=5",
        "checkpoint.every_n_steps=4",
    ),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(folder, *UNEVEN)
    return folder


def check_equal(folder, other):
    """Weights, optimizer, schedule, best checkpoint, every logged number: bit-identical."""
    for kind in ("last.ckpt", "best.ckpt"):
        a, b = (
            torch.load(path / "checkpoints" / kind, weights_only=True) for path in (folder, other)
        )
        for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
            assert same(a[part], b[part]), f"{kind}: {part}"
    assert read_metrics(folder) == read_metrics(other)
    finals = [json.loads((path / "metrics.json").read_text()) for path in (folder, other)]
    for final in finals:
        assert final.pop("train_seconds") > 0 and final.pop("peak_memory_bytes") > 0
    assert finals[0] == finals[1]
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}


def go_on(folder):
    return train(folder, *UNEVEN, "resume=auto")


def validation_that(acts, monkeypatch, at):
    """A validation in which something happens, of the step `at`."""
    step = Recipe.validation_step

    def act(self, batch, batch_idx):
        step(self, batch, batch_idx)
        if self.trainer.global_step == at:
            acts()

    monkeypatch.setattr(Recipe, "validation_step", act)


def raise_interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_between_two_transfers_and_two_validations(undisturbed, place, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(10, patch)
        assert roux(*QUIET, *UNEVEN, "run_dir=cut").code == 130
    assert weights(place / "cut")["global_step"] == 8
    go_on(place / "cut")
    check_equal(place / "cut", undisturbed)


def test_in_a_validation(undisturbed, place, monkeypatch):
    with monkeypatch.context() as patch:
        validation_that(raise_interrupt, patch, at=12)
        assert roux(*QUIET, *UNEVEN, "run_dir=cut").code == 130
    # the checkpoint of this step was asked for before its validation, which the resumed run makes
    # up for
    assert weights(place / "cut")["global_step"] == 12
    go_on(place / "cut")
    check_equal(place / "cut", undisturbed)


@pytest.mark.parametrize("where", ["training", "validation", "the last validation"])
def test_a_signal_to_stop(where, undisturbed, place, monkeypatch):
    command, kept = UNEVEN, {"training": 11, "validation": 6, "the last validation": 12}[where]
    with monkeypatch.context() as patch:
        if where == "training":
            step = Recipe.training_step

            def act(self, batch, batch_idx):
                if self.trainer.global_step == 10:
                    terminate()
                return step(self, batch, batch_idx)

            patch.setattr(Recipe, "training_step", act)
        else:
            validation_that(terminate, patch, at=kept)
        outcome = roux(*QUIET, *command, "run_dir=cut")
    assert outcome.code == 75
    assert (
        outcome.lines[-1]
        == f"terminated: {kept} steps are saved; continue with resume=cut run_dir=cut"
    )
    assert weights(place / "cut")["global_step"] == kept
    go_on(place / "cut")
    check_equal(place / "cut", undisturbed)


ENDING = """
import os, signal
from datamodules.sources import Digits

class Ending(Digits):
    def load(self, root):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().load(root)
"""


def test_a_signal_to_stop_while_data_are_read(place):
    """Nothing has to be saved yet: the process ends at once, and the same command begins anew."""
    (place / "own_source.py").write_text(ENDING)
    command = [*QUIET, *UNEVEN, "run_dir=run"]
    ending = ["data.source._target_=own_source.Ending"]
    code, said = python([str(REPOSITORY / "train.py"), *command, *ending], place)
    assert code == 75 and said.splitlines()[-1] == f"terminated: {TO_CONTINUE}"
    assert "Traceback" not in said
    assert roux(*command).code == 0


def test_after_the_last_step(undisturbed, place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "test_step", lambda *_: raise_interrupt())
        assert roux(*QUIET, *UNEVEN, "run_dir=cut").code == 130
    assert weights(place / "cut")["global_step"] == 14
    go_on(place / "cut")
    check_equal(place / "cut", undisturbed)


def test_killed_from_outside(undisturbed, place):
    command = [sys.executable, str(REPOSITORY / "train.py"), *QUIET, *UNEVEN, "run_dir=cut"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while not (place / "cut" / "checkpoints" / "last.ckpt").is_file():
        assert process.poll() is None and time.monotonic() - begun < 300
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (place / "cut" / "metrics.json").exists() and not being_written(place / "cut")
    go_on(place / "cut")
    check_equal(place / "cut", undisturbed)


# -- files -----------------------------------------------------------------------------------------
def damage(path):
    """One bit turns over in the middle of the weights."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(
    undisturbed, place, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        interrupt_at(10, patch)
        assert roux(*QUIET, *UNEVEN, "run_dir=cut").code == 130
    kept = place / "cut" / "checkpoints"
    assert whole(kept / "last.ckpt") and whole(kept / "previous.ckpt")
    damage(kept / "last.ckpt")
    go_on(place / "cut")
    said = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert said == [
        f"resume: '{place}/cut/checkpoints/last.ckpt' is damaged; resuming from previous.ckpt"
    ]
    check_equal(place / "cut", undisturbed)


def test_without_one_before_a_damaged_checkpoint_is_refused(place, monkeypatch):
    train(place / "run", "trainer.max_steps=2")
    damage(place / "run" / "checkpoints" / "last.ckpt")
    outcome = roux(*QUIET, "trainer.max_steps=4", "run_dir=more", "resume=run")
    assert (
        outcome.code == 2
        and "run/checkpoints/last.ckpt' is " in outcome.lines[0]
        and len(outcome.lines) == 1
    )


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_one_line_and_the_checkpoint_before_stays(
    reason, undisturbed, place, monkeypatch
):
    with monkeypatch.context() as patch:
        sync, previous = os.fsync, place / "cut" / "checkpoints" / "previous.ckpt"

        def full(handle):
            if previous.exists():
                raise OSError(reason, os.strerror(reason))
            sync(handle)

        patch.setattr(os, "fsync", full)
        outcome = roux(*QUIET, *UNEVEN, "run_dir=cut")
    assert outcome.code == 2 and len(outcome.lines) == 1, outcome.err
    said = f"cannot be written ({os.strerror(reason)}); the checkpoint before it is untouched"
    assert said in outcome.lines[0]
    kept = place / "cut" / "checkpoints"
    assert all(whole(path) for path in kept.iterdir()) and not list(kept.glob(".*"))
    go_on(place / "cut")
    check_equal(place / "cut", undisturbed)


def test_a_file_that_vanishes_is_one_line_and_the_run_continues_when_it_is_back(place, monkeypatch):
    for name in ("cat", "mouse"):
        write_pictures(place / "pictures" / name, 12)
    pictures = (
        "data=image_folder",
        "data.root=pictures",
        "data.source.size=12",
        "data.num_workers=0",
    )
    short = (
        "data.batch_size=4",
        "trainer.max_steps=8",
        "trainer.val_every=4",
        "checkpoint.every_n_steps=1",
    )
    command = (*pictures, *short, "data.val_fraction=0.2", "data.source.test_fraction=0.2")
    train(place / "whole", *command)
    away = place / "away"
    with monkeypatch.context() as patch:
        terms = Recipe.combine

        def moving(self, step):
            if step.progress.step == 2:
                (place / "pictures").rename(away)
            return terms(self, step)

        patch.setattr(Recipe, "combine", moving)
        outcome = roux(*QUIET, *command, "run_dir=cut")
    assert outcome.code == 2 and len(outcome.lines) == 1, outcome.err
    assert ".png: no longer exists; restore the file" in outcome.lines[0]
    assert whole(place / "cut" / "checkpoints" / "last.ckpt")
    away.rename(place / "pictures")
    train(place / "cut", *command, "resume=auto")
    assert same(weights(place / "cut")["state_dict"], weights(place / "whole")["state_dict"])


def test_a_folder_that_another_process_writes_is_refused(place):
    (place / "run").mkdir()
    with writing(place / "run"):
        assert being_written(place / "run")
        outcome = roux(*QUIET, "trainer.max_steps=2", "run_dir=run")
        assert outcome.code == 2 and "is being written by another process" in outcome.lines[0]
    assert not being_written(place / "run")


# -- numbers ---------------------------------------------------------------------------------------
def poison(monkeypatch, at):
    """The loss of one step is no number."""
    combine = Recipe.combine

    def poisoned(self, step):
        loss = combine(self, step)
        if step.progress.step == at:
            step.losses["fixmatch"] = step.losses["fixmatch"] * float("nan")
            return loss * float("nan")
        return loss

    monkeypatch.setattr(Recipe, "combine", poisoned)


def test_a_loss_that_is_no_number_stops_the_run_before_a_checkpoint(place, monkeypatch):
    poison(monkeypatch, at=6)
    outcome = roux(*QUIET, *UNEVEN, "run_dir=run")
    assert outcome.code == 2 and len(outcome.lines) == 1
    line = outcome.lines[0]
    assert (
        line.startswith("error: step 7: fixmatch is nan; samples: labeled ")
        and "; unlabeled " in line
    )
    kept = weights(place / "run")
    assert kept["global_step"] == 6
    assert all(
        value.isfinite().all() for value in kept["state_dict"].values() if value.is_floating_point()
    )


@pytest.mark.parametrize("extra", [(), ("trainer.accumulate_grad_batches=2",)])
def test_such_a_batch_can_be_left_out_and_is_counted(extra, place, monkeypatch):
    poison(monkeypatch, at=6)
    train(place / "run", *UNEVEN, "trainer.nonfinite=skip", *extra)
    kept = weights(place / "run")
    assert kept["global_step"] == 14
    assert all(
        value.isfinite().all() for value in kept["state_dict"].values() if value.is_floating_point()
    )
    counts = [row["train/skipped"] for row in read_metrics(place / "run") if "train/skipped" in row]
    assert counts[0] == 0 and counts[-1] >= 1


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("trainer.devices=2", "is for one device"),
        ("regularization=sam", "sam goes through a batch more than once"),
    ],
)
def test_leaving_out_is_for_one_device_and_one_pass(setting, line, place):
    outcome = roux("trainer.nonfinite=skip", "trainer.accelerator=cpu", setting, "run_dir=run")
    assert outcome.code == 2 and outcome.lines[0].startswith(
        f"error: trainer.nonfinite=skip: {line}"
    )


# -- resume=auto -----------------------------------------------------------------------------------
def test_the_same_command_resumes_its_own_run(place, monkeypatch):
    command = (*QUIET, "trainer.max_steps=4", "trainer.val_every=2", "resume=auto")
    with monkeypatch.context() as patch:
        validation_that(raise_interrupt, patch, at=4)
        assert roux(*command).code == 130
    begun = list((place / "outputs" / "supervised").iterdir())
    assert len(begun) == 1
    assert roux(*command, "seed=1").code == 0  # another run
    assert roux(*command).code == 0
    finished = {
        p.name: (p / "metrics.json").is_file() for p in (place / "outputs" / "supervised").iterdir()
    }
    assert len(finished) == 2 and all(finished.values())
    named = roux(*command, f"run_dir={begun[0]}")
    assert named.code == 0 and "finished already" in named.out


def test_a_run_that_was_killed_before_it_kept_anything_begins_anew(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "training_step", lambda *_: raise_interrupt())
        assert roux(*QUIET, "trainer.max_steps=2", "run_dir=run").code == 130
    assert (place / "run" / "config.yaml").is_file()
    train(place / "run", "trainer.max_steps=2", "resume=auto")


def test_minutes_are_counted_from_the_last_checkpoint(place, monkeypatch):
    saved = []
    save = LastCheckpoint.save
    monkeypatch.setattr(LastCheckpoint, "save", lambda self, trainer, due=False: (
        saved.append(trainer.global_step), save(self, trainer, due)
    ))  # fmt: skip
    train(
        place / "run", "trainer.max_steps=6", "trainer.val_every=6", "checkpoint.every_minutes=1e-9"
    )
    assert saved[:5] == [1, 2, 3, 4, 5]
