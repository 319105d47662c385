"""Preemption: at SIGTERM, which a cluster sends before it takes a machine, a run finishes its
current step, saves a checkpoint and ends.

Lightning's handler communicates with the other ranks inside the signal handler, while they may be
in another collective, and loses the connection. This one only sets a flag, which ranks exchange
between two steps.
"""

import signal
import threading
from typing import Any

import pytorch_lightning as pl
import torch

from foundation.distributed import global_sum


class Termination:
    """Whether this run has to end. every: optimizer steps between two exchanges among ranks."""

    def __init__(self, every: int):
        self.every = every
        self.requested = False

    def listen(self) -> None:
        """Handle SIGTERM instead of the handler that the trainer has set."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._request)

    def _request(self, *_: Any) -> None:
        self.requested = True

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether all ranks end after this step, because one of them got the signal. All ranks must
        call it at the same step."""
        if trainer.world_size == 1:
            return self.requested
        if trainer.global_step % self.every:
            return False
        requested = torch.tensor(float(self.requested), device=trainer.strategy.root_device)
        return bool(global_sum(requested))

    def alone(self, trainer: pl.Trainer) -> bool:
        """Whether to end within an evaluation. Several ranks complete it first, because they have
        different numbers of batches."""
        return self.requested and trainer.world_size == 1
