"""Worker processes of a loader: how they start, and what is left when one is killed."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from foundation.exit_codes import TERMINATED

GRACE = 30.0  # seconds between SIGTERM and the end of a worker process


@dataclass(frozen=True)
class PatientStart:
    """The start of a worker process. SIGTERM, which a cluster sends to all processes of a run, ends
    it only after `GRACE` seconds: the run needs its batches to finish the step, then it closes its
    workers. A run that goes away while it fetches a batch, since it has lost another worker, says
    so itself.

    inner: Lightning's own start, which seeds.
    """

    inner: Callable[[int], Any] | None

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGTERM, end_later)
        sys.excepthook = print_error  # Python's thread that hands over batches calls it by itself
        if self.inner is not None:
            self.inner(worker)


def end_later(*_: Any) -> None:
    timer = threading.Timer(GRACE, os._exit, (TERMINATED,))
    timer.daemon = True
    timer.start()


def print_error(kind: type[BaseException], error: BaseException, place: Any) -> None:
    """As usual, but nothing for a connection that the other side gave up."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, place)


def whole_batches(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches of worker processes. One that is killed while it hands over a batch breaks a
    connection: that is raised as torch raises the loss of a worker between two batches."""
    try:
        yield from batches
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        ended = ended_workers(getattr(batches, "_workers", ()))
        if not ended:
            raise
        pids = ", ".join(map(str, ended))
        raise RuntimeError(f"DataLoader worker (pid(s) {pids}) exited unexpectedly") from error


def ended_workers(workers: Sequence[BaseProcess]) -> list[int | None]:
    """Process ids of those that have ended. The first has a second: its connections break before
    it is gone."""
    ended = wait([worker.sentinel for worker in workers], timeout=1.0)
    return [worker.pid for worker in workers if worker.sentinel in ended]
