"""Processes of a run that end without being asked: ranks and data workers that something outside
killed, most often a lack of memory. One line says which one, instead of a traceback in those that
are left.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.strategies.launchers import subprocess_script

from foundation.exit_codes import (
    BEFORE_END,
    PROCESS_LOST,
    TO_CONTINUE,
    ProcessLost,
    end_process,
)
from recipes.runs.ranks import further_rank

PATIENCE = 30.0  # seconds in which this process may find out by itself, and save what it has
POLL = 0.5  # seconds between two looks
# further ranks that this process has started, from rank 1 on
RANKS: list[subprocess.Popen[bytes]] = []
TOLD: list[ProcessLost] = []  # what this process has found out by itself


@contextmanager
def lost_processes(trainer: pl.Trainer) -> Iterator[None]:
    """Raise `ProcessLost` for what is raised because a rank or a data worker has ended."""
    try:
        yield
    except RuntimeError as error:  # torch has no type of its own for either
        lost = worker_line(error) or rank_loss(error, trainer)
        if lost is None:
            raise
        TOLD.append(lost)
        raise lost from error


def worker_line(error: RuntimeError) -> ProcessLost | None:
    """What became of a data worker, in torch's words: `DataLoader worker (pid 7) is killed by
    signal: Killed. ` or `DataLoader worker (pid(s) 7, 8) exited unexpectedly`."""
    text = " ".join(str(error).split())
    if not text.startswith("DataLoader worker (pid"):
        return None
    found = text.removeprefix("DataLoader worker ").split(". ")[0].rstrip(". ")
    hint = "if memory ran out, write a smaller data.num_workers"
    return ProcessLost(f"a data worker {found}; {TO_CONTINUE}; {hint}")


# -- ranks -----------------------------------------------------------------------------------------
def rank_loss(error: RuntimeError, trainer: pl.Trainer) -> ProcessLost | None:
    """Which rank has ended, if that is why a collective failed."""
    text = str(error)
    if trainer.world_size == 1 or not any(name in text for name in ("gloo", "NCCL", "peer")):
        return None
    end = time.monotonic() + 10 * POLL
    while RANKS and time.monotonic() < end:
        ended = first_ended()
        if ended is not None:
            return ended
        time.sleep(POLL / 5)
    which = "the first rank" if further_rank() and trainer.world_size == 2 else "another rank"
    return ProcessLost(f"{which} has ended; {TO_CONTINUE} on all ranks")


def first_ended() -> ProcessLost | None:
    """The first rank that was killed or failed, with the exit code that this process gets."""
    for rank, process in enumerate(RANKS, 1):
        code = process.poll()
        if code:
            return ProcessLost(rank_line(rank, code), code if code > 0 else PROCESS_LOST)
    return None


def rank_line(rank: int, code: int) -> str:
    """`rank 1 was killed by SIGKILL; …`"""
    if code > 0:
        return f"rank {rank} ended with exit code {code}; once its cause is removed, {TO_CONTINUE}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", possibly out of memory" if name == "SIGKILL" else ""
    return f"rank {rank} was killed by {name}{hint}; {TO_CONTINUE}"


def watch_ranks() -> None:
    """Watch the ranks that Lightning starts, in place of Lightning's own observer, which kills all
    processes without a word."""
    subprocess_script._launch_process_observer = observe  # type: ignore[assignment]


def observe(processes: list[subprocess.Popen[bytes]]) -> None:
    RANKS.extend(processes)
    BEFORE_END.append(kill_ranks)
    threading.Thread(target=end_with_ranks, daemon=True).start()


def end_with_ranks() -> None:
    """End this process some time after a rank has failed: it may wait for it in a collective."""
    while any(process.poll() is None for process in RANKS):
        if first_ended() is not None:
            break
        time.sleep(POLL)
    lost = first_ended()
    if lost is None:
        return
    time.sleep(PATIENCE)
    kill_ranks()
    end_process(lost.code, "" if TOLD else f"error: {lost}")


def kill_ranks() -> None:
    for process in RANKS:
        with contextlib.suppress(OSError):
            process.kill()


def end_with_first_rank(first: int) -> None:
    """In a further rank that Lightning has started: end some time after the first one has, which
    has the process id `first`."""

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(POLL)
        time.sleep(PATIENCE)
        end_process(PROCESS_LOST)

    threading.Thread(target=watch, daemon=True).start()
