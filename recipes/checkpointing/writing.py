"""Checkpoints: whole or not there, written when asked and when the machine is about to be taken
away.

`last.ckpt` is written at every validation, after it, and as often as `checkpoint` in the config
says. The previous one is kept as `previous.ckpt` until the run has ended.
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

from foundation.base_file import FROZEN, KEY, base_name, digest
from foundation.errors import UserError
from foundation.files import PART, discard, os_reason, sync_folder
from foundation.tensor_files import read_tensors
from recipes.checkpointing.files import LAST, PREVIOUS, whole
from recipes.checkpointing.history import packed
from recipes.checkpointing.preemption import Termination
from recipes.engine.recipe import Recipe
from recipes.engine.trainer import CheckpointSettings
from recipes.loggers.build import metrics_files


class AtomicFiles(TorchCheckpointIO):
    """Writes beside the file and to the disk, then renames: a reader, or a crash, never meets half
    a checkpoint.

    Frozen weights are written once, to a file beside the checkpoints, which name it.

    Raises `UserError` where the disk is full or not writable; what was there before is untouched.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: tuple[Any, Path, str] | None = None  # what, where, and its hash

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        path = Path(path)
        self.write(self.without_frozen(checkpoint, path.parent), path)

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        return read_tensors(Path(path))  # type: ignore[no-any-return]

    def without_frozen(self, checkpoint: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The checkpoint without its frozen weights, which are on the disk when this returns."""
        names = checkpoint.pop(FROZEN, ())
        state = checkpoint["state_dict"] if names else {}
        base = {name: state[name] for name in names}
        if not base:
            return checkpoint
        # a change in place would change the version
        same = [(value.data_ptr(), value._version) for value in base.values()]
        if self._written is None or self._written[:2] != (same, folder):
            sha256 = digest(base)
            file = folder / base_name(sha256)
            if not whole(file):
                self.write(base, file)
            self._written = (same, folder, sha256)
        sha256 = self._written[2]
        trained = {name: value for name, value in state.items() if name not in base}
        entry = {"file": base_name(sha256), "sha256": sha256}
        return checkpoint | {"state_dict": trained, KEY: entry}

    def write(self, content: dict[str, Any], path: Path) -> None:
        part = path.with_name(f".{path.name}{PART}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))
            part.replace(path)
            sync_folder(path.parent)
        # torch's writer meets a full disk and then raises a RuntimeError of its own
        except (OSError, RuntimeError) as error:
            discard(part)
            problem = f"cannot be written ({os_reason(error)})"
            remedy = "the checkpoint before it is untouched: make room, then resume"
            raise UserError(str(path), problem, remedy) from error


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, from which a resumed run is bit-identical.

    A checkpoint of a step that ends with a validation which has not been made says so, and the run
    that resumes from it validates first. Before one is written the recipe checks whether its losses
    are numbers.
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

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        files = metrics_files(trainer.loggers)
        if files is not None:
            checkpoint["history"] = packed(files.history)

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
        self.termination.listen()
        self.seen = self.saved = trainer.global_step
        self._written = time.monotonic()
        if self.due:
            validate(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.seen:
            return  # a micro-batch: the optimizer has not stepped
        self.seen = trainer.global_step
        if self.seen == trainer.max_steps:
            cast(Recipe, trainer.lightning_module).finish()
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

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.termination.agreed_now(trainer):
            raise SIGTERMException

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """A validation that was cut short is made again by the run that resumes."""
        if (
            isinstance(exception, SIGTERMException)
            and trainer.state.fn == TrainerFn.FITTING
            and trainer.validating
        ):
            self.save(trainer, due=True)


def validate(trainer: pl.Trainer) -> None:
    """The validation that belongs to the step a run resumes from, as Lightning makes it after a
    batch."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
