"""SIGTERM: what a cluster sends before it takes a machine. A run finishes the step under way, keeps
it and ends.

Lightning's own handler speaks to the other ranks from inside the signal, whatever they are doing
then, and loses the connection. This one only notes; ranks ask each other between two steps.
"""

import signal
import threading
from typing import Any

import pytorch_lightning as pl
import torch

from foundation.distributed import global_sum


class Termination:
    """Whether this run is to end. every: optimizer steps between two exchanges among ranks."""

    def __init__(self, every: int):
        self.every = every
        self.requested = False

    def listen(self) -> None:
        """Take the signal, in place of the handler that was set when the trainer began."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self.requested = True

    def agreed(self, trainer: pl.Trainer) -> bool:
        """Whether all ranks end after this step: any of them got the signal. Of several, all must
        ask at the same step."""
        if trainer.world_size == 1:
            return self.requested
        if trainer.global_step % self.every:
            return False
        return bool(
            global_sum(torch.tensor(float(self.requested), device=trainer.strategy.root_device))
        )

    def alone(self, trainer: pl.Trainer) -> bool:
        """Whether to end in the middle of an evaluation: several ranks go through it first, their
        batches differ."""
        return self.requested and trainer.world_size == 1
