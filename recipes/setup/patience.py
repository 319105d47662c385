"""Early stopping: a run ends when its validations have stopped improving."""

import logging
import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from foundation.errors import UserError
from recipes.contract.composition import Composition
from recipes.report.numbers import lower_is_better, value_text

logger = logging.getLogger(__name__)
KEY = "trainer.patience"


def patience_of(patience: int | None, monitor: str, validates: bool) -> list[Callback]:
    """The callback, if a run has a patience. Raises `UserError` where nothing is validated."""
    if patience is None:
        return []
    if not validates:
        problem = "there is no validation part, so nothing says when to stop"
        raise UserError(f"{KEY}={patience}", problem, "set data.val_fraction=0.1, or leave it out")
    return [Patience(monitor, patience)]


def check_patience(patience: int | None, composition: Composition) -> None:
    """Raise `UserError` for a method that works after the last step, which an early end has not."""
    if patience is None:
        return
    for key, method in composition.methods.items():
        surveys = composition.declarations[key].surveys
        if not method.implements("finish") and all(s.when.at == "steps" for s in surveys):
            continue
        problem = f"methods.{key} works after the last step of a run of known length"
        raise UserError(f"{KEY}={patience}", problem, "leave one out")


def monitored(trainer: pl.Trainer, monitor: str) -> float | None:
    """The monitor's value at a validation of training, equal on all ranks; else None."""
    found = trainer.callback_metrics.get(monitor)
    if trainer.state.fn != "fit" or found is None:
        return None
    # the first rank decides: a sum over ranks may differ in its last bit
    return float(trainer.strategy.broadcast(float(found)))


class Patience(Callback):
    """Ends the run after `patience` validations in a row whose monitor is not better than the best
    one before. Losses and `ece` are minimized. Counted again from there when a run resumes."""

    def __init__(self, monitor: str, patience: int):
        self.monitor = monitor
        self.patience = patience
        self.sign = -1.0 if lower_is_better(monitor) else 1.0
        self.best = -math.inf
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = float(state_dict["best"])
        self.waited = int(state_dict["waited"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = monitored(trainer, self.monitor)
        if value is None or trainer.global_step >= trainer.max_steps:
            return
        if self.sign * value > self.best:
            self.best = self.sign * value
            self.waited = 0
            return
        self.waited += 1
        if self.waited < self.patience:
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            best = value_text(self.monitor, self.sign * self.best)
            logger.warning(
                "stopped at step %d of %d: %s has not been above its best, %s, for %d validations"
                if self.sign > 0
                else "stopped at step %d of %d: %s has not been below its best, %s, for %d "
                "validations",
                trainer.global_step,
                trainer.max_steps,
                self.monitor,
                best,
                self.patience,
            )
