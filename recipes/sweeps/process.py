"""Runs one job in a process of its own: an error or SIGKILL ends only that job, and no job inherits
memory, threads or settings of the previous one.

The process is an ordinary single run; a repeated job resumes. It ends when its parent ends, because
it reads from a pipe that breaks then. Its folder is locked while either process runs, so that two
sweeps in the same folder do not run a job twice."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foundation.exit_codes import INTERRUPTED, PROCESS_LOST, TERMINATED, Terminated
from recipes.config.keys import key_of
from recipes.config.stage_keys import stage_keys_from_hydra
from recipes.report.numbers import clock, value_text
from recipes.sweeps.record import NOT_OF_THE_JOB, Job, identity, jobs_of, read_job, write_job

try:
    import fcntl
except ImportError:  # Windows: there is no lock against two sweeps in the same folder
    fcntl = None  # type: ignore[assignment]

LOG = "log.txt"
LOCK = "job.lock"
PATIENCE = 20.0  # seconds to wait for the process of a killed parent to end
REASON = 300  # characters of a reason


def run_job(
    overrides: Sequence[str], folder: Path, run_dir: Path, root: Path, patience: float = PATIENCE
) -> Job:
    """Run or resume a job unless it is over; returns its record. Raises only KeyboardInterrupt.

    folder: of the job.
    run_dir: of the run.
    root: the folder of the configs.
    patience: seconds to wait for the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, patience) as lock:
        job = read_job(folder) or Job(list(overrides))
        if identity(job.overrides) != identity(overrides):
            job.state = "failed"
            job.reason = f"'{folder}' contains another job; use another run_dir for the sweep"
            return job
        if job.over:
            return job
        if lock is None:
            job.state = "running"
            job.reason = "by another process, which continues"
            return job
        again = job.attempts > 0
        # these overrides, not the recorded ones: they may contain `resume`
        arguments = [str(root), str(folder), *command_of(overrides, run_dir, again)]
        job.run_dir = str(run_dir)
        return attempt(job, folder, arguments, lock)


def attempt(job: Job, folder: Path, arguments: list[str], lock: int) -> Job:
    """Run the job's process and record how it ended."""
    text = "resumed" if job.attempts > 0 else "started"
    job.state = "running"
    job.reason = ""
    job.attempts += 1
    write_job(folder, job)
    print_line(folder, job, f"{text}, log in {folder / LOG}")
    started = time.monotonic()
    try:
        code = spawn(arguments, folder / LOG, lock)
    except (KeyboardInterrupt, Terminated) as stop:
        code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
        recorded = read_job(folder)
        # it may have come to its end all the same
        over = recorded is not None and recorded.over
        close(folder, 0 if over else code, started)
        raise
    job = close(folder, code, started)
    print_line(folder, job, outcome_line(job))
    return job


@contextmanager
def stopping(sweep: Path | None) -> Iterator[None]:
    """SIGTERM ends a sweep as Ctrl-C does: its jobs save and end, and it raises `Terminated`."""
    if sweep is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    stopped = False

    def stop(*_: Any) -> None:
        nonlocal stopped
        if not stopped:  # a second one must not cut this short
            stopped = True
            raise Terminated("the jobs were stopped; the same command runs what is missing")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # not a handler of ours: Python gives those up before the process is gone
        signal.signal(signal.SIGTERM, signal.SIG_IGN if stopped else before)


def await_ends(sweep: Path, patience: float = PATIENCE) -> None:
    """Record the ends of jobs that other processes ran, which ended with this one's: a job holds
    its lock until it has saved its steps."""
    for number, job in jobs_of(sweep).items():
        folder = sweep / str(number)
        if job.state != "running":
            continue
        with locked(folder / LOCK, patience) as lock:
            left = read_job(folder)
            if lock is not None and left is not None and left.state == "running":
                left.state, left.reason = verdict(TERMINATED, folder / LOG)
                write_job(folder, left)


def command_of(overrides: Sequence[str], run_dir: Path, again: bool) -> list[str]:
    """The overrides of the job's process. again: it resumes."""
    own = [text for text in overrides if key_of(text) not in NOT_OF_THE_JOB]
    resume = [text for text in overrides if key_of(text) == "resume"]
    if again:
        resume = ["resume=auto"]
    return [*map(stage_keys_from_hydra, own), as_override("run_dir", run_dir), *resume]


def print_line(folder: Path, job: Job, text: str) -> None:
    print(f"job {folder.name} · {job.label or ' '.join(job.overrides)} · {text}", flush=True)


def outcome_line(job: Job) -> str:
    """How a job ended, one line."""
    if job.value is not None:
        return f"done in {clock(job.seconds)}, {job.monitor} {value_text(job.monitor, job.value)}"
    return f"{job.state}: {job.reason}" if job.reason else job.state


def close(folder: Path, code: int, started: float) -> Job:
    """Record how a process ended. A finished run has recorded it already."""
    job = read_job(folder)
    assert job is not None, "written before the process began"
    job.seconds += time.monotonic() - started
    if not job.over or code:
        job.state, job.reason = verdict(code, folder / LOG)
    write_job(folder, job)
    return job


def verdict(code: int, log: Path) -> tuple[str, str]:
    """State and reason of a process that left no result."""
    if code == INTERRUPTED:
        return "stopped", "interrupted"
    if code == TERMINATED:
        return "stopped", "by SIGTERM; its steps are saved"
    if code == PROCESS_LOST:
        return "killed", last_words(log)
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", possibly out of memory" if name == "SIGKILL" else ""
        return "killed", f"by {name}{hint}"
    return "failed", last_words(log) or f"exit code {code}"


def last_words(log: Path) -> str:
    """The last error line of a log, else its last line, where a traceback has its message."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 20_000, 0))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1][:REASON]


def spawn(arguments: list[str], log: Path, lock: int) -> int:
    """Start `child` and wait for it; returns its exit code, negative for a signal.

    lock: descriptor that the process inherits; -1: none.
    """
    inherited = (lock,) if lock >= 0 else ()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "recipes.sweeps.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            # unbuffered: lines are in the log at once, and the last ones of a killed run too
            env=os.environ | {"PYTHONPATH": search_path(), "PYTHONUNBUFFERED": "1"},
        )
        try:
            return process.wait()
        except BaseException:
            # Ctrl-C reaches the whole process group, other exceptions only this process
            process.terminate()
            process.wait()
            raise


def search_path() -> str:
    """PYTHONPATH with the folder of this package first: unlike train.py, `python -m` in another
    folder does not find it."""
    root = str(Path(__file__).resolve().parents[2])
    present = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(dict.fromkeys([root, *filter(None, present)]))


@contextmanager
def locked(path: Path, patience: float) -> Iterator[int | None]:
    """Hold a lock. Yields its descriptor; -1 on a system without such locks; None where another
    process holds it after `patience` seconds."""
    if fcntl is None:
        yield -1
        return
    with path.open("w") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= end:
                    yield None
                    return
                time.sleep(0.2)
            else:
                break
        yield file.fileno()


def as_override(key: str, value: str | Path) -> str:
    """`key=value`, quoted where Hydra's grammar would parse spaces, commas or brackets."""
    text = str(value)
    if re.fullmatch(r"[\w./@%+-]+", text):
        return f"{key}={text}"
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"
