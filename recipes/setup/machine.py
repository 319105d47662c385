"""Whether this machine and this Lightning have what a run asks of them: devices, strategy,
precision. Looked at before data are read, and by a dry run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators.cpu import CPUAccelerator
from pytorch_lightning.strategies import StrategyRegistry
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from foundation.errors import UserError, first_sentence, nearest
from recipes.engine import sharding
from recipes.engine.trainer import TrainerSettings, devices_of

# settings of which this machine or this Lightning may have other values only
SHOWN_SETTINGS = ("accelerator", "devices", "strategy", "precision")
REFUSALS = (MisconfigurationException, ImportError, ValueError, RuntimeError, TypeError)


def check_device_list(settings: TrainerSettings) -> None:
    """Raise `UserError` for a list of devices that no machine can have."""
    indices = settings.devices
    if not isinstance(indices, list | tuple):
        return
    key = f"trainer.devices={list(indices)}"
    if not indices:
        raise UserError(key, "names no device", "expected a number of devices or their indices")
    if len(set(indices)) < len(indices):
        remedy = f"expected each once, as {sorted(set(indices))}"
        raise UserError(key, "names a device twice", remedy)


def check_strategy_name(settings: TrainerSettings) -> None:
    """Raise `UserError` for a strategy that Lightning does not have, with the nearest one."""
    known = ["auto", sharding.FSDP, *StrategyRegistry.available_strategies()]
    if settings.strategy not in known:
        key, problem = f"trainer.strategy={settings.strategy}", "Lightning has no such strategy"
        raise UserError(key, problem, nearest(settings.strategy, known))


def check_machine(settings: TrainerSettings, precision: str) -> None:
    """Raise `UserError` if this machine lacks what the settings ask for. precision: as it was
    chosen where the settings say `auto`."""
    with available(settings):
        trainer = pl.Trainer(
            **trainer_arguments(settings, precision),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    check_half_precision(settings, precision, trainer)


def trainer_arguments(settings: TrainerSettings, precision: str) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that a machine may refuse."""
    strategy: Any = settings.strategy
    if strategy == sharding.FSDP:
        strategy = sharding.strategy(devices_of(settings))
    return {
        "accelerator": settings.accelerator,
        # of a CPU, Lightning takes no -1
        "devices": "auto" if settings.devices == -1 else settings.devices,
        "num_nodes": settings.num_nodes,
        "strategy": strategy,
        "precision": precision,
    }


def check_half_precision(settings: TrainerSettings, precision: str, trainer: pl.Trainer) -> None:
    """Raise `UserError` for fp16 on a CPU, where Lightning takes bf16 for mixed precision and
    fails in the first step else."""
    if not precision.startswith("16") or not isinstance(trainer.accelerator, CPUAccelerator):
        return
    other = "bf16-true" if precision == "16-true" else "bf16-mixed"
    raise UserError(
        f"trainer.precision={settings.precision}",
        "a CPU has no fp16 training",
        f"write trainer.precision={other}, or 32-true",
    )


@contextmanager
def available(settings: TrainerSettings) -> Iterator[None]:
    """Accelerators, strategies and precisions that this machine or this Lightning does not have are
    one line."""
    try:
        yield
    except REFUSALS as error:
        asked = []
        for name in SHOWN_SETTINGS:
            value = getattr(settings, name)
            if value != getattr(TrainerSettings, name):
                asked.append(f"trainer.{name}={value}")
        remedy = "expected what this machine has, as trainer.accelerator=auto finds it"
        key = ", ".join(asked) or "trainer"
        raise UserError(key, first_sentence(error), remedy) from error
