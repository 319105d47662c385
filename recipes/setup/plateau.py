"""The learning rate by the monitor: tells a schedule of plateaus the value of every validation."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from foundation.errors import UserError
from recipes.optimization.plateau import Plateau, PlateauScheduler
from recipes.optimization.schedulers import Schedule
from recipes.report.numbers import lower_is_better
from recipes.setup.patience import monitored


def plateau_of(schedule: Schedule, monitor: str, validates: bool) -> list[Callback]:
    """The callback, if the schedule follows the monitor. Raises `UserError` where nothing is
    validated."""
    if not isinstance(schedule, Plateau):
        return []
    if not validates:
        problem = "there is no validation part, so nothing says when the rate falls"
        remedy = "set data.val_fraction=0.1, or take scheduler=multistep"
        raise UserError("scheduler=plateau", problem, remedy)
    return [PlateauWatch(monitor)]


class PlateauWatch(Callback):
    """Has no state of its own: the scheduler counts, and is saved with the run. Lightning calls
    checkpoints after all other callbacks, so the validation in a checkpoint is counted in it."""

    def __init__(self, monitor: str):
        self.monitor = monitor

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = monitored(trainer, self.monitor)
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        if value is not None and isinstance(scheduler, PlateauScheduler):
            scheduler.validated(value, lower_is_better(self.monitor))
