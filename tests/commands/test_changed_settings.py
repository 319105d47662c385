"""A run resumed with other settings: refused by name, or accepted, effective and recorded for good."""

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from foundation.errors import UserError
from recipes.runs.run_folder import check_stage_names
from tests.commands.test_resume import interrupt_at, weights
from tests.commands.test_stages import SIX, stop_at
from tests.support.command import QUIET, read_metrics, roux, snapshot, train

EIGHT = (
    "trainer.max_steps=8",
    "trainer.val_every=4",
    "trainer.log_every=1",
    "data.labels_per_class=4",
)
SLOPE = (*EIGHT, "scheduler=linear")


@pytest.fixture
def cut(place, monkeypatch):
    """A run that was interrupted after 6 steps and kept 4."""
    with monkeypatch.context() as patch:
        interrupt_at(6, patch)
        assert roux(*QUIET, *SLOPE, "run_dir=cut").code == 130
    return place / "cut"


def again(*arguments, resume="auto"):
    return roux(*QUIET, *SLOPE, "run_dir=cut", f"resume={resume}", *arguments)


@pytest.mark.parametrize("resume", ["auto", "cut", "cut/checkpoints/last.ckpt"])
def test_other_settings_are_refused_in_one_line_and_nothing_is_touched(resume, cut):
    before = snapshot(cut)
    outcome = again("optimizer.lr=0.1", "trainer.precision=64-true", resume=resume)
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert (
        "settings differ from the checkpoint's: " in outcome.err
        and "accept_changes=true" in outcome.err
    )
    assert (
        "optimizer.lr 0.03 -> 0.1; " in outcome.err
        and "trainer.precision auto -> 64-true" in outcome.err
    )
    assert snapshot(cut) == before


def test_accepted_settings_take_effect_and_are_kept_for_good(cut, place, monkeypatch):
    accepted = ("optimizer.lr=0.1", "optimizer.weight_decay=0.001", "accept_changes=true")
    with monkeypatch.context() as patch:
        interrupt_at(6, patch)
        patch.setattr(
            "recipes.checkpointing.writing.LastCheckpoint.asked", lambda self, trainer: True
        )
        assert again(*accepted).code == 130
    # the new settings are those of the checkpoint now
    outcome = again(*accepted[:2])
    assert outcome.code == 0, outcome.err
    rates = {int(row["step"]): row["train/lr"] for row in read_metrics(cut) if "train/lr" in row}
    assert rates[4] == pytest.approx(0.03 * 5 / 8, abs=1e-9)
    assert [rates[step] for step in (5, 8)] == pytest.approx([0.1 * 4 / 8, 0.1 / 8])
    assert {g["weight_decay"] for g in weights(cut)["optimizer_states"][0]["param_groups"]} == {
        0.001,
        0.0,
    }
    line = "from step 4 on: optimizer.lr 0.03 -> 0.1"
    text = (cut / "config.yaml").read_text()
    assert f"# {line}\n" in text and yaml.safe_load(text)["optimizer"]["lr"] == 0.1
    assert f"  {line}\n" in (cut / "plan.txt").read_text()
    page = (cut / "report.html").read_text()
    assert "Changed settings" in page and "optimizer.lr 0.03 -&gt; 0.1" in page
    kept = weights(cut)["provenance"]["changes"]
    assert (
        kept[0] == {"step": 4, "key": "optimizer.lr", "old": "0.03", "new": "0.1"}
        and len(kept) == 2
    )


@pytest.mark.parametrize(
    "change", ["optimizer.momentum=0.5", "data.label_noise=0.1", "optimizer.weight_decay=0"]
)
def test_what_lies_in_the_checkpoint_cannot_change(change, cut):
    outcome = again(change, "accept_changes=true")
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert change.partition("=")[0] in outcome.err and "network.checkpoint=FILE" in outcome.err


def test_places_and_what_is_shown_pass(cut):
    same = (
        "logger=tensorboard",
        "trainer.val_every=8",
        "trainer.log_every=2",
        "checkpoint.every_n_steps=3",
    )
    outcome = again(*same, "trainer.channels_last=false")
    assert outcome.code == 0 and "differ" not in outcome.err and "changed" not in outcome.err
    assert weights(cut)["provenance"]["changes"] == []


def test_a_longer_run_says_what_it_does_to_the_schedule(cut, caplog):
    assert again("trainer.max_steps=16").code == 0
    (line,) = [
        record.getMessage()
        for record in caplog.records
        if record.getMessage().startswith("resume:")
    ]
    assert line == (
        "resume: trainer.max_steps 8 -> 16: the schedule Linear and ramps given as shares of the "
        "run are stretched "
        "from step 4 on; the learning rate jumps from 0.015 to 0.0225"
    )
    rates = {int(row["step"]): row["train/lr"] for row in read_metrics(cut) if "train/lr" in row}
    assert rates[5] == pytest.approx(0.0225)
    assert "from step 4 on: trainer.max_steps 8 -> 16" in (cut / "plan.txt").read_text()


def test_a_shorter_run_is_a_difference_and_one_that_is_done_has_nothing_left(cut):
    assert "trainer.max_steps 8 -> 6" in again("trainer.max_steps=6").err
    assert "so nothing is left" in again("trainer.max_steps=3").err


def test_a_finished_run_names_what_differs(place, caplog):
    train(place / "cut", *EIGHT)
    outcome = roux(*QUIET, *EIGHT, "run_dir=cut", "resume=auto")
    assert outcome.code == 0 and "finished already" in outcome.out
    for change in ("optimizer.lr=0.1", "recipe=fixmatch", "evaluate/attack=pgd"):
        outcome = roux(*QUIET, *EIGHT, "run_dir=cut", "resume=auto", change)
        assert outcome.code == 2 and len(outcome.lines) == 1
        assert (
            "is finished, with other settings: " in outcome.err
            and "name another run_dir" in outcome.err
        )
    longer = (*QUIET, *EIGHT, "run_dir=cut", "trainer.max_steps=12")
    outcome = roux(*longer, "resume=auto")
    assert (
        outcome.code == 2
        and "max_steps 8 -> 12; to train it further: resume=cut run_dir=cut" in outcome.err
    )
    # a constant rate does not depend on the length
    assert roux(*longer, "resume=cut").code == 0
    assert "the learning rate stays 0.03" in caplog.text and "jumps" not in caplog.text


STAGED = "stages:\n  representation: {}\n  classifier: {}\n"


ONE = "seed: 0\n"


def begun(folder, written):
    """What a run of this config has left in its folder."""
    (folder / "representation/checkpoints").mkdir(parents=True)
    for name, text in {"config.yaml": written, "plan.txt": "kept", "stages.json": "{}"}.items():
        (folder / name).write_text(text)


def test_a_run_of_stages_is_neither_resumed_nor_cleared_by_a_recipe_of_one(place):
    begun(place / "cut", STAGED)
    before = snapshot(place / "cut")
    outcome = roux(*QUIET, "recipe=supervised", "run_dir=cut", "resume=auto")
    assert outcome.code == 2 and len(outcome.lines) == 1, outcome.err
    found = "the stages representation, classifier, and this recipe has one stage; name another"
    assert f"run_dir: 'cut' holds a run of {found}" in outcome.err
    assert snapshot(place / "cut") == before


@pytest.mark.parametrize(
    "written, names, found",
    [
        (ONE, ["last"], "one stage, and this recipe has the stages last"),
        (STAGED, ["classifier"], "the stages representation, classifier, and this recipe has the"),
        (STAGED, ["representation", "classifier", "last"], None),
        (ONE, [], None),
    ],
)
def test_stages_of_the_folder_and_of_the_recipe(written, names, found, place):
    begun(place / "cut", written)
    config = OmegaConf.create({"stages": {name: {} for name in names}})
    if found is None:
        check_stage_names(place / "cut", config)
        return
    with pytest.raises(UserError, match=found):
        check_stage_names(place / "cut", config)


def test_stages_are_compared_each_on_its_own(place, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(5, "classifier", patch)
        assert roux(*QUIET, *SIX, "run_dir=cut").code == 130
    before = snapshot(place / "cut")
    outcome = roux(*QUIET, *SIX, "run_dir=cut", "resume=auto", "optimizer.lr=0.1")
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert (
        "representation: this stage is finished, with other settings: optimizer.lr 0.03 -> 0.1"
        in outcome.err
    )
    assert snapshot(place / "cut") == before
    outcome = roux(
        *QUIET, *SIX, "run_dir=cut", "resume=auto", "optimizer.lr=0.1", "accept_changes=true"
    )
    assert outcome.code == 0, outcome.err
    plan = (place / "cut" / "plan.txt").read_text()
    assert "stage representation is finished and keeps optimizer.lr 0.03, not 0.1" in plan
    last = torch.load(place / "cut" / "classifier" / "checkpoints" / "last.ckpt", weights_only=True)
    assert [change["key"] for change in last["provenance"]["changes"]] == ["optimizer.lr"]
    outcome = roux(*QUIET, *SIX, "run_dir=cut", "resume=auto")
    assert outcome.code == 2 and "stages.classifier.optimizer.lr 0.1 -> 0.03" in outcome.err
