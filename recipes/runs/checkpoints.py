"""Checkpoints: whole or not there, written when asked and when the machine is about to be taken
away.

`last.ckpt` is written at every validation, after it, and as often as `checkpoint` in the config
says. The one before it stays beside it as `previous.ckpt` until the run has ended.
"""

import os
import time
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from foundation.errors import UserError, first_line
from recipes.engine.recipe import Recipe
from recipes.engine.trainer import CheckpointSettings
from recipes.runs.checkpoint_files import LAST, PREVIOUS
from recipes.runs.preemption import Termination


class AtomicFiles(TorchCheckpointIO):
    """Writes beside the file and to the disk, then renames: a reader, or a crash, never meets half
    a checkpoint.

    Raises `UserError` where the disk is full or not writable; what was there before is untouched.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))
            part.replace(path)
            _sync_folder(path.parent)
        # torch's writer hides a full disk in a RuntimeError
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or first_line(error)
            problem = f"cannot be written ({reason})"
            remedy = "the checkpoint before it is untouched: make room, then resume"
            raise UserError(str(path), problem, remedy) from error


def _sync_folder(folder: Path) -> None:
    """Bring a renaming to the disk; systems that cannot open a folder do without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, from which a run goes on to the bit.

    A checkpoint of a step that ends with a validation which has not been made says so, and the run
    that goes on from it validates first. Before one is written the recipe is asked whether its
    losses are numbers.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        interval: int,
        validates: bool,
        termination: Termination,
    ):
        self.path = folder / "checkpoints" / LAST
        self.settings = settings
        self.termination = termination
        self.interval = interval
        self.validates = validates
        self.seen = self.saved = -1  # optimizer steps at the last batch, and in the file
        self.due = False  # a validation of the step that is saved
        self._written = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"due": self.due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.due = bool(state_dict["due"])

    def save(self, trainer: pl.Trainer, due: bool = False) -> None:
        if trainer.global_step == self.saved and due == self.due:
            return
        if due and trainer.global_step == trainer.max_steps:
            return  # a resumed run with nothing left to train would not validate
        recipe = cast(Recipe, trainer.lightning_module)
        recipe.traces.check()
        recipe.estimate_moments()  # the averaged network in the file has moments of its own
        self.due = due
        trainer.save_checkpoint(self.path)
        self.saved = trainer.global_step
        self._written = time.monotonic()

    def asked(self, trainer: pl.Trainer) -> bool:
        """Whether this step is one of those that the settings name; the first rank's clock counts
        for all."""
        every = self.settings.every_n_steps
        minutes = self.settings.every_minutes
        late = False
        if minutes is not None:
            late = time.monotonic() - self._written >= 60 * minutes
            late = bool(trainer.strategy.broadcast(late)) if trainer.world_size > 1 else late
        return late or bool(every and trainer.global_step % every == 0)

    # -- when --------------------------------------------------------------------------------------
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.termination.listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.termination.listen()  # Lightning has set its own handler by now
        self.seen = self.saved = trainer.global_step
        self._written = time.monotonic()
        if self.due:
            validate(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.seen:
            return  # a micro-batch: the optimizer has not stepped
        self.seen = trainer.global_step
        ends = self.seen % self.interval == 0
        stop = self.seen < trainer.max_steps and self.termination.agreed(trainer)
        if stop or self.asked(trainer) or (ends and not self.validates):
            self.save(trainer, due=ends and self.validates)
        if stop:
            raise SIGTERMException

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.termination.alone(trainer):
            raise SIGTERMException

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.termination.alone(trainer):
            raise SIGTERMException

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """A validation that was cut short is made again by the run that goes on."""
        if (
            isinstance(exception, SIGTERMException)
            and trainer.state.fn == TrainerFn.FITTING
            and trainer.validating
        ):
            self.save(trainer, due=True)


def validate(trainer: pl.Trainer) -> None:
    """The validation that belongs to the step a run goes on from, as Lightning makes it after a
    batch."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
