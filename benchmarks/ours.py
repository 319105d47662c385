"""Our step on the real road: config, assembly, recipe and Trainer as `recipes.runs.run` makes them,
under a clock. What benchmarks know of the engine's inner parts stands here."""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.clock import LIGHTNING, Clock, Sections, time_optimizer
from datamodules.streams import StepLoader
from recipes.config.resolve import resolve_command
from recipes.engine.recipe import Recipe
from recipes.loggers.build import build_loggers, close_loggers
from recipes.runs.assembly import Assembly, assemble
from recipes.runs.run import build_recipe, build_trainer, checkpoints, read_data, uses_hooks

ALONE = (
    "trainer.limit_val_batches=1",
    "trainer.devices=1",
    "trainer.progress_bar=false",
    "run_dir=unused",
)
ENGINE = {
    "training_step": "step: calls in between",
    "begin": "step: begin, seed",
    "_make_view": "views",
    "forward_inputs": "forward: names, concatenation",
    "combine": "terms: reduction",
    "record": "meters",
    "publish": "meters",
    "backward": "backward",
    "optimizer_step": LIGHTNING,
}
POINTS = {"prepare": "step: calls in between", "terms": "terms", "after_step": "after the step"}


@cache
def composed(device: str, overrides: tuple[str, ...]) -> DictConfig:
    """The sound config of a case, composed once: that takes longer than some of its runs."""
    return resolve_command([*overrides, *ALONE, f"trainer.accelerator={device}"]).config


def prepared(total: int, folder: Path, device: str, overrides: tuple[str, ...]) -> Assembly:
    """The assembly of a run of `total` steps, its data set up, torch seeded. Validation and
    checkpoint come after the last step, outside every window."""
    config = copy.deepcopy(composed(device.replace("cuda", "gpu"), overrides))
    config.trainer.max_steps = config.trainer.val_every = total
    config.run_dir = str(folder)
    assembly = assemble(config)
    read_data(assembly)
    return assembly


def train(assembly: Assembly, recipe: Recipe, folder: Path, *callbacks: pl.Callback) -> None:
    """To the end, as `train.py` does: checkpoints registered, metrics in `metrics.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    loggers = build_loggers({}, folder)
    hooks = [method for method in recipe.composition.methods.values() if uses_hooks(method)]
    all_callbacks = [*callbacks, *checkpoints(assembly, folder), *hooks]
    trainer = build_trainer(assembly, loggers, folder, all_callbacks)
    trainer.fit(recipe, datamodule=assembly.datamodule)
    close_loggers(loggers)


def fit(assembly: Assembly, folder: Path, clock: Clock) -> list[Tensor]:
    """Train to the end; returns the loss of every step. Where the clock has sections, time is
    booked on them."""
    recipe = build_recipe(assembly)
    if clock.sections is not None:
        instrument(recipe, assembly, clock.sections)
    losses = watch(recipe, clock)
    train(assembly, recipe, folder)
    return losses


class Runs:
    """Runs of one command, each in a new folder."""

    def __init__(self, device: str, folder: Path, overrides: tuple[str, ...]):
        self.device, self.folder, self.overrides = device, folder, overrides
        self.count = 0

    def assembly(self, total: int, *more: str) -> tuple[Assembly, Path]:
        self.count += 1
        folder = self.folder / f"run{self.count}"
        folder.mkdir(parents=True)
        return prepared(total, folder, self.device, (*self.overrides, *more)), folder

    def ours(self, clock: Clock, *more: str) -> list[Tensor]:
        return fit(*self.assembly(clock.total, *more), clock)


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


class TimedLoader(StepLoader):
    """The training loader under the clock."""

    sections: Sections

    def __iter__(self) -> Iterator[Any]:
        return self.sections.iterate(super().__iter__(), "loader")


def instrument(recipe: Recipe, assembly: Assembly, sections: Sections) -> None:
    """Book every part of the step on its section; what is left over is Lightning's."""
    for name, section in ENGINE.items():
        sections.wrap(recipe, name, section)
    sections.wrap(recipe.network, "features", "network")
    if recipe.teacher is not None:
        sections.wrap(recipe.teacher, "update", "averaged weights")
    for task in recipe.tasks.values():
        sections.wrap(task, "supervise", "terms")
    for point, section in POINTS.items():
        for method in recipe.methods_at[point]:
            sections.wrap(method, point, section)
    make_optimizer, make_loader = recipe._make_optimizer, assembly.datamodule.train_dataloader

    def timed_optimizer(module: Recipe) -> Any:
        optimizer, scheduler = make_optimizer(module)
        time_optimizer(module, optimizer, sections)
        return optimizer, scheduler

    def timed_loader() -> StepLoader:
        loader = make_loader()
        loader.__class__, loader.sections = TimedLoader, sections
        return loader

    recipe._make_optimizer = timed_optimizer
    assembly.datamodule.__dict__["train_dataloader"] = timed_loader
