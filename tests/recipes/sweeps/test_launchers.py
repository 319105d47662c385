"""Launchers of several processes, with real runs: slow."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from recipes.config.groups import CONFIGS

SHORT = ["trainer.max_steps=4", "trainer.accelerator=cpu"]
NEEDS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ["hydra.launcher.timeout_min=20"]),
    "roux_ray": ("ray", ["hydra.launcher.init={num_cpus: 2, include_dashboard: false}"]),
}


def start(place, *arguments):
    command = [
        sys.executable,
        str(CONFIGS.parent / "train.py"),
        "-m",
        *SHORT,
        "run_dir=sweep",
        *arguments,
    ]
    return subprocess.Popen(command, cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"})


def rows(place):
    return list(csv.DictReader((place / "sweep" / "jobs.csv").open()))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", NEEDS)
def test_one_bad_job_of_four_asked_for_twice(launcher, tmp_path):
    package, options = NEEDS[launcher]
    pytest.importorskip(package)
    command = ["data.labels_per_class=4,8,114,16", f"hydra/launcher={launcher}", *options]
    for attempts in ("1", "2"):
        assert start(tmp_path, *command).wait() == 1
        assert [row["state"] for row in rows(tmp_path)] == ["done", "done", "failed", "done"]
        assert "class '8' has 113 training samples" in rows(tmp_path)[2]["reason"]
        assert [row["attempts"] for row in rows(tmp_path)] == ["1", "1", attempts, "1"]


@pytest.mark.slow
def test_twelve_jobs_of_which_two_cannot_and_one_is_killed(tmp_path):
    command = [
        "data.labels_per_class=16,64,114",
        "data.val_fraction=0.05,0.1",
        "seed=0,1",
        "trainer.max_steps=20",
    ]
    sweep = start(tmp_path, *command)
    last = tmp_path / "sweep" / "5" / "checkpoints" / "last.ckpt"
    while not last.is_file() and sweep.poll() is None:
        time.sleep(0.05)
    child = f"recipes.sweeps.child .*{tmp_path}/sweep/5 "
    found = subprocess.run(["pgrep", "-f", child], capture_output=True, text=True)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    assert sweep.wait() == 1
    assert [row["state"] for row in rows(tmp_path)] == ["done"] * 5 + ["killed"] + ["done"] * 4 + [
        "failed"
    ] * 2
    assert start(tmp_path, *command).wait() == 1
    assert [row["state"] for row in rows(tmp_path)] == ["done"] * 10 + ["failed"] * 2
    assert [row["attempts"] for row in rows(tmp_path)] == ["1"] * 5 + ["2"] + ["1"] * 4 + ["2"] * 2


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_job_along_and_continues(tmp_path):
    command = ["seed=0,1", "trainer.max_steps=40"]
    sweep = start(tmp_path, *command)
    last = tmp_path / "sweep" / "0" / "checkpoints" / "last.ckpt"
    while not last.is_file() and sweep.poll() is None:
        time.sleep(0.05)
    sweep.kill()
    sweep.wait()
    assert start(tmp_path, *command).wait() == 0
    assert [(row["state"], row["attempts"]) for row in rows(tmp_path)] == [
        ("done", "2"),
        ("done", "1"),
    ]
