"""Runs whose sets have tasks of their own: the same after a resume, and on two ranks."""

import json
import os
import subprocess
import sys

import pytest
import torch

import recipes
from recipes.runs.start import ready, start
from tests.commands.test_several_ranks import far
from tests.support.command import REPOSITORY

EVEN = "data.sources.even={source: {_target_: datamodules.sources.Digits, tasks: [parity]}, tasks: own}"
RUN = (
    *(EVEN, "data=digits", "data.batch_size=8", "scheduler=constant", "trainer.val_every=2"),
    *("network.name=vit_tiny_patch16_224", "network.input_size=8", "+network.options.patch_size=4"),
    *("+network.options.embed_dim=32", "+network.options.depth=1", "+network.options.num_heads=2"),
    *("trainer.accelerator=cpu", "trainer.progress_bar=false"),
)


def trained(folder, steps, *more):
    start(ready([*RUN, f"trainer.max_steps={steps}", f"run_dir={folder}", *more]))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole") / "run", 4)


def test_metrics_are_of_each_task_and_their_mean(whole):
    found = json.loads((whole / "metrics.json").read_text())
    for part in ("val", "test"):
        both = [found[f"{part}/{task}/accuracy"] for task in ("label", "even")]
        assert found[f"{part}/accuracy"] == pytest.approx(sum(both) / 2)
    assert {"train/supervised/label", "train/supervised/even"} <= found.keys()
    assert "set even: 1,297 samples, with labels of even alone" in (whole / "plan.txt").read_text()
    assert recipes.load(whole).classes["even"] == ["even", "odd"]


def test_a_resumed_run_is_bit_identical(whole, tmp_path):
    half = trained(tmp_path / "half", 2)
    rest = trained(tmp_path / "rest", 4, f"resume={half}")
    one, other = (torch.load(f / "checkpoints/last.ckpt")["state_dict"] for f in (whole, rest))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.slow
def test_two_ranks_equal_one(whole, tmp_path):
    two = (f"run_dir={tmp_path / 'two'}", "trainer.devices=2", "trainer.strategy=ddp")
    command = [sys.executable, str(REPOSITORY / "train.py"), *RUN, "trainer.max_steps=4", *two]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0
    assert far(whole, tmp_path / "two") < 1e-6
