"""Frozen weights are written once, beside the checkpoints, which are whole again when read."""

import shutil

import pytest
import torch

import recipes
from foundation.base_file import digest
from foundation.errors import UserError
from foundation.tensor_files import UnreadableFile, read_tensors
from recipes.checkpointing.files import load_checkpoint
from recipes.checkpointing.writing import AtomicFiles
from tests.support.command import roux, train
from tests.support.predict_runs import VIT
from tests.support.settings import SHARED


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """LoRA with an averaged network, whose backbone is the trained one's."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    train(folder, *SHARED, *VIT, "peft=lora", "averaging=ema", "trainer.val_every=1")
    return folder


def base_of(folder):
    (base,) = (folder / "checkpoints").glob("base-*.pt")
    return base


def copied(tuned, folder, *names):
    for name in names:
        shutil.copy(tuned / "checkpoints" / name, folder / name)
    return folder / "last.ckpt"


def logits(checkpoint):
    images = torch.linspace(0, 1, 4 * 64).view(4, 1, 8, 8)
    with torch.no_grad():
        return recipes.load(checkpoint)(images)


def test_a_checkpoint_has_what_is_trained_and_names_the_rest(tuned):
    base = torch.load(base_of(tuned), weights_only=True)
    for kind in ("last", "best"):
        lean = torch.load(tuned / "checkpoints" / f"{kind}.ckpt", weights_only=True)
        assert lean["base"] == {"file": base_of(tuned).name, "sha256": digest(base)}
        assert not base.keys() & lean["state_dict"].keys()
        whole = read_tensors(tuned / "checkpoints" / f"{kind}.ckpt")
        assert whole["state_dict"].keys() == base.keys() | lean["state_dict"].keys()
        assert "base" not in whole
    weight = "backbone.blocks.0.mlp.fc1.weight"
    assert {f"network.{weight}", f"teacher.network.{weight}"} <= base.keys()
    assert not any("deltas" in name or "heads" in name for name in base)


def test_it_is_written_once_and_again_only_when_it_has_changed(tmp_path):
    files = AtomicFiles()
    frozen, trained = torch.arange(3.0), torch.zeros(2)

    def save():
        state = {"a": frozen, "b": trained}
        files.save_checkpoint({"state_dict": state, "frozen": ["a"]}, tmp_path / "last.ckpt")
        assert torch.equal(read_tensors(tmp_path / "last.ckpt")["state_dict"]["a"], frozen)
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("base-*")}

    first = save()
    trained += 1
    assert save() == first
    assert save() == first
    frozen += 1
    assert len(save()) == 2
    # the file of an earlier process is taken as it is, and written anew where it is damaged
    again = tmp_path / "again"
    shutil.copytree(tmp_path, again, copy_function=shutil.copy)
    (damaged,) = [path for path in again.glob("base-*") if path.name == max(save()).name]
    damaged.write_bytes(b"no")
    state = {"a": torch.load(tmp_path / damaged.name)["a"]}
    AtomicFiles().save_checkpoint({"state_dict": state, "frozen": ["a"]}, again / "last.ckpt")
    assert torch.equal(torch.load(damaged, weights_only=True)["a"], state["a"])


def test_nothing_frozen_makes_an_ordinary_checkpoint(tmp_path):
    for content in ({"state_dict": {"a": torch.ones(1)}, "frozen": []}, {"w": 1}):
        AtomicFiles().save_checkpoint(dict(content), tmp_path / "last.ckpt")
        found = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert "base" not in found and "frozen" not in found
    assert [path.name for path in tmp_path.iterdir() if "base" in path.name] == []


def test_moved_with_its_base_it_is_the_same_and_so_is_one_of_an_older_version(tuned, tmp_path):
    expected = logits(tuned)
    moved = copied(tuned, tmp_path, "last.ckpt", base_of(tuned).name)
    older = tmp_path / "older.ckpt"
    torch.save(read_tensors(moved), older)
    link = tmp_path / "elsewhere"
    link.mkdir()
    (link / "last.ckpt").symlink_to(moved)
    for path in (moved, older, link / "last.ckpt"):
        found = logits(path)
        assert all(torch.equal(found[task], expected[task]) for task in expected)


def test_without_its_base_it_is_refused_in_one_line(tuned, tmp_path):
    alone = copied(tuned, tmp_path, "last.ckpt")
    words = rf"its frozen weights '{base_of(tuned).name}' are not beside it; copy that file"
    for read in (recipes.load, load_checkpoint):
        with pytest.raises(UserError, match=words) as refusal:
            read(str(alone))
        assert "\n" not in str(refusal.value)
    said = roux(*SHARED, *VIT, "peft=lora", f"network.checkpoint={alone}", "dry_run=true")
    assert said.code == 2
    assert "are not beside it" in said.err


def test_another_base_a_damaged_one_and_a_path_are_refused(tuned, tmp_path):
    path = copied(tuned, tmp_path, "last.ckpt", base_of(tuned).name)
    base = tmp_path / base_of(tuned).name
    other = torch.load(base, weights_only=True)
    other[next(iter(other))] += 1
    torch.save(other, base)
    with pytest.raises(UnreadableFile, match="are not those that it was saved with"):
        read_tensors(path)
    base.write_bytes(b"no")
    with pytest.raises(UnreadableFile, match=r"its frozen weights 'base-.*' cannot be read"):
        read_tensors(path)
    content = torch.load(path, weights_only=True)
    for entry in ({"file": "../" + base.name, "sha256": "0"}, {"file": base.name}, "base"):
        torch.save(content | {"base": entry}, path)
        with pytest.raises(UnreadableFile, match="it names no file of frozen weights"):
            read_tensors(path)
