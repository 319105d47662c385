"""Runs of several processes as users start them: by Lightning and by torchrun, killed and resumed
on as many processes or on fewer. The network has no batch statistics, so that one process and two
agree."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.commands.test_resume import same, weights
from tests.support.command import REPOSITORY, read_metrics, roux

RUN = (
    *("recipe=fixmatch", "data.labels_per_class=4", "data.batch_size=8", "data.unlabeled_ratio=1"),
    *("network.name=vit_tiny_patch16_224", "network.input_size=8", "+network.options.patch_size=4"),
    *("+network.options.embed_dim=32", "+network.options.depth=1", "+network.options.num_heads=2"),
    *(
        "trainer.max_steps=12",
        "trainer.val_every=6",
        "trainer.log_every=4",
        "checkpoint.every_n_steps=1",
    ),
    *("trainer.accelerator=cpu", "trainer.progress_bar=false", "resume=auto"),
)
TWO = ("trainer.devices=2", "trainer.strategy=ddp")
ONE = ("trainer.devices=1",)


def start(*arguments, torchrun=False):
    """A command in processes of its own, which form a group to be killed at once."""
    interpreter = (
        ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2") if torchrun else ()
    )
    own = {text.partition("=")[0] for text in arguments}
    common = [text for text in RUN if text.partition("=")[0] not in own]
    return subprocess.Popen(
        [sys.executable, *interpreter, str(REPOSITORY / "train.py"), *common, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(*arguments, torchrun=False):
    process = start(*arguments, torchrun=torchrun)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def kill_after(folder, step, process):
    """SIGKILL to all ranks once a checkpoint of that step or a later one is there."""
    last, end = folder / "checkpoints" / "last.ckpt", time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        if last.is_file() and weights(folder)["global_step"] >= step:
            break
        time.sleep(0.01)
    kill(process, folder)
    reached = weights(folder)["global_step"]
    assert step <= reached < 12, f"killed at {reached}"


def kill(process, folder):
    """SIGKILL to every process of a run; torchrun's are in sessions of their own."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdigit()
                and f"run_dir={folder}".encode() in (entry / "cmdline").read_bytes()
            ):
                os.kill(int(entry.name), signal.SIGKILL)
    process.communicate()


def far(a, b):
    """The largest distance between two runs' weights."""
    one, other = weights(a)["state_dict"], weights(b)["state_dict"]
    assert one.keys() == other.keys()
    return max(
        float((one[key].double() - other[key].double()).abs().max())
        for key in one
        if one[key].numel()
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    finish(*TWO, f"run_dir={folder}")
    return folder


@pytest.mark.slow
def test_two_ranks_killed_go_on_to_the_bit(undisturbed, tmp_path):
    folder = tmp_path / "cut"
    kill_after(folder, 3, start(*TWO, f"run_dir={folder}"))
    finish(*TWO, f"run_dir={folder}")
    a, b = weights(folder), weights(undisturbed)
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert same(a[part], b[part]), part
    assert read_metrics(folder) == read_metrics(undisturbed)


@pytest.mark.slow
def test_on_another_number_of_ranks_the_same_samples_are_seen(undisturbed, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(*ONE, f"run_dir={whole}")
    assert far(whole, undisturbed) < 1e-5
    kill_after(cut, 3, start(*TWO, f"run_dir={cut}"))
    before = {k: v.clone() for k, v in weights(cut)["state_dict"].items()}
    finish(*ONE, f"run_dir={cut}")
    assert far(cut, whole) < 1e-5
    # the distance that other samples would make is of another order
    assert (
        max(
            float((before[k] - v).abs().max())
            for k, v in weights(cut)["state_dict"].items()
            if v.numel()
        )
        > 1e-3
    )


@pytest.mark.slow
def test_torchrun_is_the_same_run(undisturbed, tmp_path):
    folder = tmp_path / "run"
    finish(*TWO, f"run_dir={folder}", torchrun=True)
    assert same(weights(folder)["state_dict"], weights(undisturbed)["state_dict"])


@pytest.mark.slow
def test_torchrun_continues_after_a_kill(undisturbed, tmp_path):
    folder = tmp_path / "cut"
    kill_after(folder, 3, start(*TWO, f"run_dir={folder}", torchrun=True))
    finish(*TWO, f"run_dir={folder}", torchrun=True)
    assert same(weights(folder)["state_dict"], weights(undisturbed)["state_dict"])


@pytest.mark.slow
def test_stages_on_two_ranks_go_on_in_the_second(tmp_path):
    """`crt` on two ranks, killed in its second stage."""
    own = ("recipe=crt", "data.labels_per_class=null", "data.batch_size=16")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(*TWO, *own, f"run_dir={whole}")
    process, last = (
        start(*TWO, *own, f"run_dir={cut}"),
        cut / "classifier" / "checkpoints" / "last.ckpt",
    )
    while process.poll() is None and not last.is_file():
        time.sleep(0.01)
    kill(process, cut)
    assert not (cut / "classifier" / "metrics.json").is_file()
    finish(*TWO, *own, f"run_dir={cut}")
    for stage in ("representation", "classifier"):
        assert same(weights(whole / stage)["state_dict"], weights(cut / stage)["state_dict"])


@pytest.mark.slow
def test_programs_run_on_the_first_rank_and_decide_as_on_one(tmp_path):
    """The rounds of `fafs`: two ranks measure the same affinities, and both begin the next round
    with the columns that the first one made."""
    own = ("recipe=fafs", "+network.options.depth=2", "trainer.max_steps=6")
    own += ("methods.fafs.alpha=40.0", "data.labels_per_class=null", "data.batch_size=16")
    folders = {name: tmp_path / name for name in ("one", "two")}
    finish(*ONE, *own, f"run_dir={folders['one']}")
    finish(*TWO, *own, f"run_dir={folders['two']}")
    trees, decisions, done = (
        [json.loads((folders[name] / file).read_text()) for name in folders]
        for file in ("widen_1/tree.json", "widen_1/decision.json", "stages.json")
    )
    assert trees[0] == trees[1] and len(trees[0]["stages"][-1]["groups"]) == 2
    for one, two in zip(*(decision["affinity"] for decision in decisions), strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    assert list(done[0]) == list(done[1]) and done[0]["widen_1"] == done[1]["widen_1"]
    one, two = (weights(folder / "final")["state_dict"] for folder in folders.values())
    assert any(".copies.1." in name for name in one)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)


def test_torchrun_needs_a_named_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = roux("trainer.devices=2", "trainer.accelerator=cpu")
    assert outcome.code == 2 and "run_dir=outputs/mine" in outcome.lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sigterm_of_all_ranks_keeps_their_step(tmp_path):
    """As srun sends it: to every process. The first rank tells with its exit code."""
    folder = tmp_path / "cut"
    process, last = (
        start(*TWO, f"run_dir={folder}", "trainer.max_steps=5000"),
        folder / "checkpoints" / "last.ckpt",
    )
    while process.poll() is None and not last.is_file():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 75, err
    assert "terminated: " in err
    assert torch.load(last, weights_only=True)["global_step"] >= 1
