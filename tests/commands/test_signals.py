"""SIGTERM and SIGKILL to commands of processes of their own: a run, its data workers, its ranks, a
sweep. Each ends with the exit code that docs/reliability.md lists, and one line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.command import QUIET, REPOSITORY

# does not end by itself within the test
ENDLESS = ("recipe=supervised", "trainer.max_steps=100000", "trainer.log_every=1")
TWO = (
    *("network.name=vit_tiny_patch16_224", "network.input_size=8", "+network.options.depth=1"),
    *("+network.options.patch_size=4", "+network.options.embed_dim=32"),
    *("+network.options.num_heads=2", "trainer.devices=2", "trainer.strategy=ddp"),
)
PATIENCE = 300


@pytest.fixture
def start(place):
    """A function that starts a command in a session of its own and waits until it trains."""
    started = []

    def begin(*arguments, folder="run"):
        command = [sys.executable, str(REPOSITORY / "train.py"), *QUIET, *ENDLESS, *arguments]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
        )
        started.append(process)
        end = time.monotonic() + PATIENCE
        while not (place / folder / "metrics.csv").is_file():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def ended(process):
    """Exit code, and the lines of ours on stderr."""
    _, err = process.communicate(timeout=PATIENCE)
    ours = [line for line in err.splitlines() if line.startswith(("error:", "terminated:"))]
    assert "Traceback" not in err
    return process.returncode, ours


def children(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def is_running(pid):
    """Not so for a process that has ended and that its parent, if killed, has never waited for."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")


@pytest.mark.slow
def test_sigterm_to_all_processes_of_a_run_with_workers_twice(start):
    process = start("run_dir=run", "data.num_workers=2")
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    code, (line,) = ended(process)
    assert code == 75 and "steps are saved; continue with resume=run" in line


@pytest.mark.slow
def test_a_killed_worker(start):
    process = start("run_dir=run", "data.num_workers=2")
    os.kill(children(process)[0], signal.SIGKILL)
    code, (line,) = ended(process)
    assert code == 71 and "a data worker (pid" in line and "resume=auto" in line


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank(killed, start):
    """The ranks that are left end with one line, and none stays behind."""
    process = start("run_dir=run", *TWO)
    further = children(process)[0]
    os.kill((process.pid, further)[killed], signal.SIGKILL)
    code, (line,) = ended(process)
    which = ("the first rank has ended", "rank 1 was killed by SIGKILL")[killed]
    assert code == (-signal.SIGKILL, 71)[killed]
    assert line.startswith(f"error: {which}") and "resume=auto" in line
    assert not is_running(further)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_sigterm_to_a_sweep(launcher, start, place):
    if launcher == "joblib":
        pytest.importorskip("joblib")
    more = [f"hydra/launcher={launcher}"]
    process = start("-m", "seed=0,1", "run_dir=sweep", *more, folder="sweep/0")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75 and "Traceback" not in err
    assert err.endswith(
        "terminated: the jobs were stopped; the same command runs what is missing\n"
    )
    assert "job 0, seed 0: stopped: by SIGTERM; its steps are saved" in out
    assert (place / "sweep/sweep.csv").is_file()
    left = subprocess.run(["pgrep", "-f", str(place / "sweep")], capture_output=True, text=True)
    assert left.stdout == "", "a job is still running"
