"""Lightning's Trainer as the engine needs it."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from foundation.errors import UserError, first_sentence
from recipes.contract.method import Method
from recipes.engine import sharding
from recipes.engine.lean import NoProfiler, drop_empty_hooks
from recipes.engine.trainer import TrainerSettings
from recipes.runs.assembly import Assembly, devices_of
from recipes.runs.checkpoints import AtomicFiles

# settings of which this machine or this Lightning may have other values only
SHOWN_SETTINGS = ("accelerator", "devices", "strategy", "precision")


def build_trainer(
    assembly: Assembly, loggers: list[Any], folder: Path, callbacks: list[Callback]
) -> pl.Trainer:
    """A Trainer with our samplers, validation by steps, gradients in evaluation."""
    quieten()
    settings = assembly.trainer
    strategy: Any = settings.strategy
    if strategy == sharding.FSDP:
        strategy = sharding.strategy(devices_of(settings))
    with available(settings):
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            precision=assembly.precision,  # type: ignore[arg-type]
            max_steps=settings.max_steps,
            accumulate_grad_batches=settings.accumulate_grad_batches,
            gradient_clip_val=settings.gradient_clip_val,
            gradient_clip_algorithm=settings.gradient_clip_algorithm,
            val_check_interval=settings.validation_interval * settings.accumulate_grad_batches,
            check_val_every_n_epoch=None,
            limit_val_batches=settings.limit_val_batches,
            deterministic=settings.deterministic,
            logger=loggers,
            callbacks=callbacks,
            plugins=[AtomicFiles()],
            default_root_dir=folder,
            profiler=NoProfiler(),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            inference_mode=False,
            enable_model_summary=False,
            enable_progress_bar=settings.progress_bar,
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        drop_empty_hooks(callback)
    check_half_precision(assembly, str(trainer.precision))
    return trainer


def check_half_precision(assembly: Assembly, taken: str) -> None:
    """Raise `UserError` if Lightning took another precision than asked for."""
    if assembly.precision.startswith("16") and taken.startswith("bf16"):
        raise UserError(
            f"trainer.precision={assembly.trainer.precision}",
            f"a CPU has no fp16 training, Lightning would take {taken} in its place",
            f"write trainer.precision={taken}, or 32-true",
        )


@contextmanager
def available(settings: TrainerSettings) -> Iterator[None]:
    """Accelerators, strategies and precisions that this machine or this Lightning does not have are
    one line."""
    try:
        yield
    except (MisconfigurationException, ImportError, ValueError, RuntimeError) as error:
        asked = []
        for name in SHOWN_SETTINGS:
            value = getattr(settings, name)
            if value != getattr(TrainerSettings, name):
                asked.append(f"trainer.{name}={value}")
        remedy = "expected what this machine has, as trainer.accelerator=auto finds it"
        key = ", ".join(asked) or "trainer"
        raise UserError(key, first_sentence(error), remedy) from error


def quieten() -> None:
    """Keep Lightning's advice and banners out of the way of what the run itself says."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for advice in (
        ".*isinstance.treespec, LeafSpec.*",  # inside Lightning, with a newer torch
        ".*smaller than the logging interval.*",  # we log ourselves
        ".*AMP with fp16 is not supported on CPU.*",  # refused by check_half_precision
        ".*in eval mode at the start of training.*",  # an averaged network is meant to be
        ".*Checkpoint directory .* exists and is not empty.*",  # resuming
        ".*The dirpath has changed from .*",  # resuming in another folder
        # what is logged has been summed over ranks
        ".*It is recommended to use `self.log.*sync_dist=True.*",
        ".*`training_step` returned `None`.*",  # a batch that was left out
        # features are changed in place by nobody
        ".*FSDP2-wrapped module .* returned a view tensor.*",
    ):
        warnings.filterwarnings("ignore", message=advice)


def hooked_methods(methods: Iterable[Method]) -> list[Method]:
    """The methods that listen to Lightning; registering one that does not costs 15 to 30 µs a
    hook."""
    return [method for method in methods if uses_hooks(method)]


def uses_hooks(method: Method) -> bool:
    """Whether a method overrides any of Lightning's hooks."""
    hooks = ("on_", "setup", "teardown", "state_dict", "load_state_dict")
    for name in dir(type(method)):
        if not name.startswith(hooks) or name == "on_exception":
            continue
        if getattr(type(method), name) is not getattr(Callback, name, None):
            return True
    return False
