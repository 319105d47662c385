"""What becomes of a job's process is noted, and where a job resumes."""

import os
import signal
import subprocess
import sys

import pytest

from foundation.exit_codes import Terminated
from recipes.sweeps import process
from recipes.sweeps.process import (
    as_override,
    await_ends,
    last_words,
    locked,
    run_job,
    search_path,
    stopping,
    verdict,
)
from recipes.sweeps.record import Job, read_job, write_job


@pytest.fixture
def spawned(monkeypatch):
    """Processes that end with the codes given, and the signals they got."""
    calls, codes = [], []

    def spawn(arguments, log, lock):
        calls.append(arguments)
        if codes[0] == 0:
            folder = log.parent
            job = read_job(folder)
            job.state, job.metrics, job.monitor = "done", {"val/accuracy": 0.5}, "val/accuracy"
            write_job(folder, job)
        return codes.pop(0)

    monkeypatch.setattr(process, "spawn", spawn)
    return calls, codes


def test_a_killed_job_continues_from_its_checkpoint_and_a_finished_one_is_left_alone(
    tmp_path, spawned
):
    calls, codes = spawned
    codes += [-9, 0]
    folder = tmp_path / "0"
    job = run_job(["seed=0", "resume=other.ckpt"], folder, folder, tmp_path)
    assert (job.state, job.reason) == (
        "killed",
        "by SIGKILL, possibly out of memory",
    )
    assert calls[0][2:] == ["seed=0", f"run_dir={folder}", "resume=other.ckpt"]
    job = run_job(["seed=0"], folder, folder, tmp_path)
    assert (job.state, job.value, job.attempts) == ("done", 0.5, 2)
    assert calls[1][2:] == ["seed=0", f"run_dir={folder}", "resume=auto"]
    assert run_job(["seed=0"], folder, folder, tmp_path).state == "done" and len(calls) == 2


def test_another_job_in_the_folder_is_not_touched(tmp_path, spawned):
    write_job(tmp_path, Job(["seed=1"], state="stopped"))
    job = run_job(["seed=0"], tmp_path, tmp_path, tmp_path)
    assert job.state == "failed" and "contains another job" in job.reason
    assert read_job(tmp_path).overrides == ["seed=1"] and spawned[0] == []


def test_a_job_that_another_process_runs_is_left_alone(tmp_path, spawned):
    with locked(tmp_path / process.LOCK, 0) as lock:
        assert lock is not None
        assert run_job(["seed=0"], tmp_path, tmp_path, tmp_path, patience=0.3).state == "running"
    assert spawned[0] == []


@pytest.mark.parametrize(
    "code, text, expected",
    [
        (75, "", ("stopped", "by SIGTERM; its steps are saved")),
        (130, "", ("stopped", "interrupted")),
        (-15, "", ("killed", "by SIGTERM")),
        (71, "error: rank 1 was killed\n", ("killed", "rank 1 was killed")),
        (2, "x\nerror: data.root: no such folder\nbye\n", ("failed", "data.root: no such folder")),
        (1, "Traceback …\n  File\nValueError: 3 < 4\n\n", ("failed", "ValueError: 3 < 4")),
        (1, "", ("failed", "exit code 1")),
    ],
)
def test_how_a_process_ended_in_one_line(code, text, expected, tmp_path):
    (tmp_path / "log.txt").write_text(text)
    assert verdict(code, tmp_path / "log.txt") == expected


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    (tmp_path / "log.txt").write_text("error: old\n" + "x" * 50_000 + "\nlast\n")
    assert last_words(tmp_path / "log.txt") == "last"


@pytest.mark.parametrize("text", ["a b", "a=b,c", "it's", "[x]", "plain/1"])
def test_any_value_survives_hydras_grammar(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([as_override("run_dir", text)])
    assert override.value() == text


def test_a_run_ends_with_its_starter():
    wait = "import time\nfrom recipes.sweeps.child import end_with_parent\nimport threading\n"
    wait += "threading.Thread(target=end_with_parent, daemon=True).start()\nprint('up', flush=True)\ntime.sleep(60)"
    run = subprocess.Popen(
        [sys.executable, "-c", wait],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": search_path()},
    )
    assert run.stdout.readline() == b"up\n"
    run.stdin.close()  # as when the starter is killed
    assert run.wait(30) == -15


@pytest.mark.parametrize("over", [False, True])
def test_sigterm_stops_a_sweep_and_its_job(over, tmp_path, monkeypatch):
    """A job that comes to its end all the same stays done."""

    def spawn(arguments, log, lock):
        if over:
            job = read_job(log.parent)
            job.state = "done"
            write_job(log.parent, job)
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(process, "spawn", spawn)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Terminated, match="the same command"), stopping(tmp_path):
            run_job(["seed=0"], tmp_path / "0", tmp_path / "0", tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
    finally:
        signal.signal(signal.SIGTERM, before)
    job = read_job(tmp_path / "0")
    expected = ("done", "") if over else ("stopped", "by SIGTERM; its steps are saved")
    assert (job.state, job.reason) == expected


def test_a_stopped_sweep_waits_for_jobs_of_other_processes(tmp_path):
    folders = [tmp_path / str(number) for number in range(3)]
    for folder, state in zip(folders, ("running", "running", "done"), strict=True):
        folder.mkdir()
        write_job(folder, Job(["seed=0"], state=state))
    with locked(folders[1] / process.LOCK, 0):
        await_ends(tmp_path, patience=0.1)
    states = [read_job(folder).state for folder in folders]
    assert states == ["stopped", "running", "done"]


def test_without_a_signal_the_handler_stays(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with stopping(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
