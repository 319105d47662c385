"""Data that changed between a kill and the resumption are noticed, whatever changed in them."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from foundation.errors import UserError
from recipes.runs.resume import with_data
from recipes.setup.assemble import assemble
from recipes.setup.spec import RunSpec
from tests.commands.test_resume import interrupt_at, weights
from tests.support.command import QUIET, roux, snapshot, write_pictures

RUN = (
    *("recipe=supervised", "data=image_folder", "data.root=pictures", "data.source.size=12"),
    *("data.source.check=none", "trainer.log_every=1"),
    *("network.name=digits_cnn", "data.batch_size=8", "data.val_fraction=0.2"),
    *("trainer.max_steps=8", "trainer.val_every=4", "run_dir=cut", "resume=auto"),
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was interrupted after 6 steps and kept 4, and its pictures."""
    folder = tmp_path_factory.mktemp("stopped")
    for name in ("a", "bb"):
        write_pictures(folder / "pictures" / name, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        interrupt_at(6, patch)
        assert roux(*QUIET, *RUN).code == 130
    return folder


@pytest.fixture
def cut(stopped, place):
    shutil.copytree(stopped, place, dirs_exist_ok=True)
    return place


def add(root):
    shutil.copy(root / "a/3.png", root / "a/99.png")


def remove(root):
    (root / "a/3.png").unlink()


def relabel(root):
    (root / "a/3.png").rename(root / "bb/3x.png")


def replace(root):
    Image.new("RGB", (12, 12)).save(root / "a/3.png")


def swap(root):
    """Two pictures of one class change their names: as many, as large in sum."""
    (root / "a/3.png").rename(root / "x")
    (root / "a/4.png").rename(root / "a/3.png")
    (root / "x").rename(root / "a/4.png")


@pytest.mark.parametrize("change", [add, remove, relabel, replace, swap])
def test_a_change_is_refused_in_one_line(change, cut):
    change(cut / "pictures")
    before = snapshot(cut / "cut")
    outcome = roux(*QUIET, *RUN)
    assert outcome.code == 2 and len(outcome.lines) == 1, outcome.err
    assert outcome.err.startswith("error: resume=cut: the data have changed since the checkpoint: ")
    assert " part: " in outcome.err and "accept_changes=true" in outcome.err
    assert snapshot(cut / "cut") == before


@pytest.fixture
def untrained(monkeypatch):
    """A run that resumes writes its settings and ends."""
    for step in ("fit_and_test", "write_outputs"):
        monkeypatch.setattr(f"recipes.runs.run.{step}", lambda *_: None)


def test_accepted_data_are_kept_for_good(cut, untrained):
    replace(cut / "pictures")
    outcome = roux(*QUIET, *RUN, "accept_changes=true")
    assert outcome.code == 0, outcome.err
    (line,) = [
        line for line in (cut / "cut/config.yaml").read_text().splitlines() if line.startswith("#")
    ]
    assert line.startswith("# from step 4 on: data (") and "'a/3.png'" in line
    assert line.removeprefix("# ") in (cut / "cut/plan.txt").read_text()


def test_the_same_pictures_elsewhere_pass_and_so_does_an_older_checkpoint(cut, untrained):
    (cut / "pictures").rename(cut / "moved")
    path = cut / "cut/checkpoints/last.ckpt"
    content = weights(cut / "cut")
    del content["provenance"]["fingerprint"]
    assert roux(*QUIET, *RUN, "data.root=moved", "data.source.check=all").code == 0
    replace(cut / "moved")
    torch.save(content, path)
    assert roux(*QUIET, *RUN, "data.root=moved").code == 0


def stage_after(cut, **changes):
    """A stage that takes the weights of the stopped run, and its data."""
    config = OmegaConf.load(cut / "cut/config.yaml")
    config.resume = None
    config.network.checkpoint = str(cut / "cut/checkpoints/last.ckpt")
    OmegaConf.update(config, "accept_changes", changes.get("accept_changes", False))
    spec = RunSpec(config, stage="second", weights_of="first")
    data = assemble(spec).datamodule
    data.prepare_data()
    return spec, data


def test_a_stage_that_begins_compares_its_data_with_those_of_the_stage_before(cut, caplog):
    assert with_data(*stage_after(cut), None) is None
    replace(cut / "pictures")
    with pytest.raises(UserError, match=r"stages\.second: the data have changed .*a/3\.png"):
        with_data(*stage_after(cut), None)
    assert not caplog.records
    assert with_data(*stage_after(cut, accept_changes=True), None) is None
    assert "data changed from step 0 on" in caplog.text
