"""Diff Pruning in its three stages: gates, projection, the kept entries alone."""

import json

import pytest
import torch

from foundation.tensor_files import read_tensors
from methods.peft.diff_pruning import DiffPruning, hard_concrete
from tests.support.command import train
from tests.support.killed_runs import begin, differences, finish, state

RECIPE = (
    "recipe=diff_pruning",
    "network.name=digits_cnn",
    "+network.options.width=4",
    "trainer.max_steps=8",
    "trainer.val_every=4",
    "trainer.log_every=2",
    "checkpoint.every_n_steps=2",
    "data.batch_size=16",
    "optimizer.lr=0.01",
    "methods.diff_pruning.share=0.05",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff_pruning") / "run"
    train(folder, *RECIPE)
    return folder


def state_of(folder, stage):
    path = folder / stage / "checkpoints" / "last.ckpt"
    return read_tensors(path)["state_dict"]


def deltas(state_dict):
    """δ in evaluation, by number of the diff."""
    found = {}
    prefix = "network.deltas.diff_pruning."
    for name in [n for n in state_dict if n.startswith(prefix) and n.endswith(".w")]:
        diff = name.removesuffix(".w")
        gates = hard_concrete(state_dict[f"{diff}.alpha"])
        group = hard_concrete(state_dict[f"{diff}.group"])
        found[diff] = gates * group * state_dict[name]
    return found


def test_the_last_stage_trains_the_kept_entries_alone(finished):
    done = json.loads((finished / "stages.json").read_text())
    assert list(done) == ["gates", "project", "fixmask"]
    before, after = (deltas(state_of(finished, stage)) for stage in ("gates", "fixmask"))
    size = sum(value.numel() for value in before.values())
    flat = torch.cat([value.abs().flatten() for value in before.values()])
    kept = int(done["project"]["kept"])
    assert kept == int(0.05 * size)
    assert int((flat > 0).sum()) > kept, "nothing is pruned before the projection"
    threshold = flat.sort(descending=True).values[kept - 1]
    moved = 0
    for name, value in after.items():
        mask = before[name].abs() >= threshold
        assert not value[~mask].any()
        moved += int((value[mask] != before[name][mask]).sum())
    assert moved > kept // 2


def test_the_backbone_below_the_change_is_the_first_one(finished):
    first, last = (state_of(finished, stage) for stage in ("gates", "fixmask"))
    frozen = [name for name in first if name.endswith(".original")]
    assert frozen and all(torch.equal(first[name], last[name]) for name in frozen)


def test_without_a_fixed_part_nothing_is_projected():
    assert DiffPruning(fixed=None).last_gated(10) == 0
    assert DiffPruning(fixed=0.5).last_gated(10) == 5


@pytest.mark.slow
def test_killed_in_the_last_stage_it_ends_with_the_same_bits(tmp_path):
    own = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false")
    command = [*RECIPE, *own]
    finish(command, tmp_path / "whole")
    kill = "{kill: {_target_: tests.support.stage_programs.KillAt, marker: '%s', at: step}}"
    text = f"stages.fixmask.callbacks={kill}".replace("%s", str(tmp_path / "killed"))
    process = begin([*command, text], tmp_path / "cut")
    process.join()
    assert process.exitcode == -9
    finish([*command, text], tmp_path / "cut")
    assert differences(state(tmp_path / "whole"), state(tmp_path / "cut")) == set()
