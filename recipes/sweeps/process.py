"""One job in a process of its own: what takes the job down, a bug, a bad value or SIGKILL, takes
nothing else down, and no job inherits memory, threads or settings of the one before.

The process is a single run like any other, started again where it stopped. It ends when its starter
does: it reads from a pipe that breaks then. Its folder is locked while either of them lives, so
that a sweep asked for twice at once runs no job twice."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from foundation.exit_codes import INTERRUPTED, TERMINATED
from recipes.config.keys import key_of
from recipes.config.stage_keys import stage_keys_from_hydra
from recipes.report.numbers import clock, value_text
from recipes.sweeps.record import NOT_OF_THE_JOB, Job, identity, read, write

try:
    import fcntl
except ImportError:  # Windows has other locks; a sweep must not be asked for twice at once there
    fcntl = None  # type: ignore[assignment]

LOG = "log.txt"
LOCK = "job.lock"
PATIENCE = 20.0  # seconds that a process may take to end after its starter was killed
REASON = 300  # characters


def run_job(
    overrides: Sequence[str], folder: Path, run_dir: Path, root: Path, patience: float = PATIENCE
) -> Job:
    """Run a job unless it is over, from where it stopped; returns how it ended. Only Ctrl-C is an
    exception."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, patience) as lock:
        job = read(folder) or Job(list(overrides))
        if identity(job.overrides) != identity(overrides):
            job.state = "failed"
            job.reason = f"'{folder}' holds another job; name another run_dir for the sweep"
            return job
        if job.over:
            return job
        if lock is None:
            job.state = "running"
            job.reason = "by another process; it is left alone"
            return job
        again = job.attempts > 0
        job.state = "running"
        job.reason = ""
        job.run_dir = str(run_dir)
        job.attempts += 1
        write(folder, job)
        arguments = [str(root), str(folder), *command_of(overrides, run_dir, again)]
        say(folder, job, f"started{' again' if again else ''}, log in {folder / LOG}")
        started = time.monotonic()
        try:
            code = spawn(arguments, folder / LOG, lock)
        except KeyboardInterrupt:
            close(folder, INTERRUPTED, started)
            raise
        job = close(folder, code, started)
        say(folder, job, outcome_line(job))
        return job


def command_of(overrides: Sequence[str], run_dir: Path, again: bool) -> list[str]:
    """The overrides of the job's process, in the user's words. again: it resumes."""
    own = [text for text in overrides if key_of(text) not in NOT_OF_THE_JOB]
    resume = [text for text in overrides if key_of(text) == "resume"]
    if again:
        resume = ["resume=auto"]
    return [*map(stage_keys_from_hydra, own), as_override("run_dir", run_dir), *resume]


def say(folder: Path, job: Job, words: str) -> None:
    print(f"job {folder.name} · {job.label or ' '.join(job.overrides)} · {words}", flush=True)


def outcome_line(job: Job) -> str:
    """How a job ended, in a line."""
    if job.value is not None:
        return f"done in {clock(job.seconds)}, {job.monitor} {value_text(job.monitor, job.value)}"
    return f"{job.state}: {job.reason}" if job.reason else job.state


def close(folder: Path, code: int, started: float) -> Job:
    """Note how a process ended; a run that was finished has noted it by itself."""
    job = read(folder)
    assert job is not None, "written before the process began"
    job.seconds += time.monotonic() - started
    if not job.over or code:
        job.state, job.reason = verdict(code, folder / LOG)
    write(folder, job)
    return job


def verdict(code: int, log: Path) -> tuple[str, str]:
    """State and reason of a process that left no result."""
    if code == INTERRUPTED:
        return "stopped", "interrupted"
    if code == TERMINATED:
        return "stopped", "by SIGTERM; its steps are kept"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return "killed", f"by {name} from outside{hint}"
    return "failed", last_words(log) or f"exit code {code}"


def last_words(log: Path) -> str:
    """The line of a log that says why: our own complaint, else the last one, which is where a
    traceback says it."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 20_000, 0))
        lines = [
            line.strip()
            for line in file.read().decode(errors="replace").splitlines()
            if line.strip()
        ]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1][:REASON]


def spawn(arguments: list[str], log: Path, lock: int) -> int:
    """Start `child` and wait for it; returns its exit code, negative where a signal ended it."""
    kept = (lock,) if lock >= 0 else ()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "recipes.sweeps.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=kept,
            # whoever follows the log sees each line at once, and a killed run leaves its last words
            env=os.environ | {"PYTHONPATH": search_path(), "PYTHONUNBUFFERED": "1"},
        )
        try:
            return process.wait()
        except BaseException:
            # Ctrl-C has reached the whole group; anything else has not
            process.terminate()
            process.wait()
            raise


def search_path() -> str:
    """PYTHONPATH with the folder of this package, which other processes do not know: they do not
    start in train.py."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(
        dict.fromkeys([str(Path(__file__).resolve().parents[2]), *filter(None, given)])
    )


@contextmanager
def locked(path: Path, patience: float) -> Iterator[int | None]:
    """Hold a lock; gives its descriptor, -1 where the system has no such locks, None where another
    holds it."""
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
    """`key=value` in Hydra's grammar, which reads blanks, commas and brackets as its own."""
    text = str(value)
    if re.fullmatch(r"[\w./@%+-]+", text):
        return f"{key}={text}"
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"
