"""Lightning's Trainer as the engine needs it."""

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import (
    AdvancedProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from foundation.errors import UserError
from recipes.checkpointing.writing import AtomicFiles
from recipes.contract.method import Method
from recipes.engine.lean import NoProfiler, drop_empty_hooks
from recipes.engine.trainer import TrainerSettings
from recipes.runs.processes import watch_ranks
from recipes.setup.assemble import Assembly
from recipes.setup.machine import available, check_half_precision, trainer_arguments

KEY = "trainer.profiler"
NAMED: dict[str, Callable[..., Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def build_trainer(
    assembly: Assembly, loggers: list[Any], folder: Path, callbacks: list[Callback]
) -> pl.Trainer:
    """A Trainer with our samplers, validation by steps, gradients in evaluation."""
    quieten()
    settings = assembly.trainer
    with available(settings):
        trainer = pl.Trainer(
            **trainer_arguments(settings, assembly.precision),
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
            profiler=profiler_of(settings, folder),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            inference_mode=False,
            enable_model_summary=False,
            enable_progress_bar=settings.progress_bar,
        )
    # SIGTERM is the run's own affair, see `preemption`, and so are the processes of ranks
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    watch_ranks()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        drop_empty_hooks(callback)
    check_half_precision(settings, assembly.precision, trainer)
    return trainer


def profiler_of(settings: TrainerSettings, folder: Path) -> Profiler:
    """The profiler of the settings, which writes to `profile/` in the run's folder. Raises
    `UserError` for a target that is none."""
    chosen = settings.profiler
    if chosen is None:
        return NoProfiler()
    if isinstance(chosen, str):
        return NAMED[chosen](dirpath=folder / "profile", filename=chosen)
    made = chosen
    if isinstance(chosen, Mapping):
        problem = f"found {str(dict(chosen))[:60]}"
        raise UserError(KEY, problem, "expected a mapping with the _target_ of a profiler")
    if not isinstance(made, Profiler):
        problem = f"makes a {type(made).__name__}"
        raise UserError(KEY, problem, "expected a subclass of pytorch_lightning.profilers.Profiler")
    return made


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
        ".*MLFlow only allows .*",  # docs/own_data.md says which names it changes
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
