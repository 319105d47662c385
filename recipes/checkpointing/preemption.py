"""Preemption: at SIGTERM, which a cluster sends before it takes a machine, a run finishes its
current step, saves a checkpoint and ends.

Lightning's handler communicates with the other ranks inside the signal handler, while they may be
in another collective, and loses the connection; `build_trainer` takes it away. This one only sets a
flag, which ranks exchange between two steps. Before the first step there is nothing to save, and
the handler of the command ends the process (`foundation.exit_codes.end_at_sigterm`).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from foundation.distributed import global_sum
from foundation.exit_codes import TO_CONTINUE, ProcessLost, Terminated


class Termination:
    """Whether this run has to end. every: optimizer steps between two exchanges among ranks."""

    def __init__(self, every: int):
        self.every = every
        self.requested = False

    def listen(self) -> None:
        """Handle SIGTERM from now on."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._request)

    def _request(self, *_: Any) -> None:
        self.requested = True

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Afterwards SIGTERM has the handler that it had before. A run that got the signal ignores
        further ones, which must not cut its end short: Python gives up handlers of its own before
        the process is gone. A request that nobody has looked at ends the run here."""
        before = signal.getsignal(signal.SIGTERM)
        try:
            yield
            if self.requested:
                raise SIGTERMException
        except ProcessLost as lost:
            if self.requested:  # the signal has reached the processes of this run, too
                raise Terminated(TO_CONTINUE) from lost
            raise
        finally:
            main_thread = threading.current_thread() is threading.main_thread()
            if main_thread:
                signal.signal(signal.SIGTERM, signal.SIG_IGN if self.requested else before)

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether all ranks end after this step, because one of them got the signal. All ranks must
        call it at the same step."""
        if trainer.world_size > 1 and trainer.global_step % self.every:
            return False
        return self.agreed_now(trainer)

    def agreed_now(self, trainer: pl.Trainer) -> bool:
        """The same, whichever step it is: all ranks must call it."""
        if trainer.world_size == 1:
            return self.requested
        requested = torch.tensor(float(self.requested), device=trainer.strategy.root_device)
        return bool(global_sum(requested))

    def alone(self, trainer: pl.Trainer) -> bool:
        """Whether to end within an evaluation. Several ranks complete it first, because they have
        different numbers of batches."""
        return self.requested and trainer.world_size == 1


def saved_line(steps: int, folder: Path) -> str:
    return f"{steps} steps are saved; continue with resume={folder} run_dir={folder}"
