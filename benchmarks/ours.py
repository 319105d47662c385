"""Our step on the real road: config, assembly, recipe and Trainer as `recipes.runs.run` makes them,
under a clock."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from benchmarks.clock import Clock
from recipes.config.resolve import resolve_command
from recipes.engine.recipe import Recipe
from recipes.loggers.build import build_loggers, close_loggers
from recipes.runs.run import build_recipe, build_trainer, checkpoints, read_data, uses_hooks
from recipes.setup.assemble import Assembly, assemble

ALONE = (
    "trainer.limit_val_batches=1",
    "trainer.devices=1",
    "trainer.progress_bar=false",
    "run_dir=unused",
)


@cache
def composed(device: str, overrides: tuple[str, ...]) -> DictConfig:
    """The sound config of a case, composed once: that takes longer than some of its runs."""
    accelerator = device.replace("cuda", "gpu")
    return resolve_command([*overrides, *ALONE, f"trainer.accelerator={accelerator}"]).config


class Runs:
    """Runs of one command, each in a new folder."""

    def __init__(self, device: str, folder: Path, overrides: tuple[str, ...]):
        self.device = device
        self.folder = folder
        self.overrides = overrides
        self.count = 0

    def assembly(self, total: int, *more: str) -> tuple[Assembly, Path]:
        """A run of `total` steps, its data set up, torch seeded. Validation and checkpoint come
        after the last step, outside every window."""
        self.count += 1
        folder = self.folder / f"run{self.count}"
        folder.mkdir(parents=True)
        config = copy.deepcopy(composed(self.device, (*self.overrides, *more)))
        config.trainer.max_steps = config.trainer.val_every = total
        config.run_dir = str(folder)
        assembly = assemble(config)
        read_data(assembly)
        return assembly, folder

    def ours(self, clock: Clock, *more: str) -> list[Tensor]:
        """Train to the end, as `train.py` does: checkpoints registered, metrics in `metrics.csv`.
        Returns the loss of every step."""
        assembly, folder = self.assembly(clock.total, *more)
        recipe = build_recipe(assembly)
        losses = watch(recipe, clock)
        loggers = build_loggers({}, folder)
        hooks = [method for method in recipe.composition.methods.values() if uses_hooks(method)]
        trainer = build_trainer(assembly, loggers, folder, [*checkpoints(assembly, folder), *hooks])
        trainer.fit(recipe, datamodule=assembly.datamodule)
        close_loggers(loggers)
        return losses


def watch(recipe: Recipe, clock: Clock) -> list[Tensor]:
    """Mark the clock at the start of every step, and keep what the step returns."""
    losses: list[Tensor] = []
    step = recipe.training_step

    def training_step(batch: dict[str, Any], batch_idx: int) -> Tensor:
        clock.mark()
        loss = step(batch, batch_idx)
        losses.append(loss.detach())
        return loss

    recipe.__dict__["training_step"] = training_step
    return losses
