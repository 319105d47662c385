"""Whether the network suits the data, as far as shapes tell: checked on the meta device, after
surgery."""

import torch

from datamodules.datamodule import StreamDataModule
from foundation.errors import UserError, first_line
from recipes.engine.trainer import TrainerSettings
from recipes.networks.network import Network
from recipes.step.batchnorm import batch_normalizations
from recipes.step.step import Embedded


def check_text_length(datamodule: StreamDataModule, network: Network) -> None:
    """Raise `UserError` if texts may be longer than the encoder has positions for."""
    longest = getattr(datamodule.text, "max_length", None)
    limit = getattr(network, "max_length", None)
    if longest is not None and limit is not None and longest > limit:
        raise UserError(
            f"data.text.max_length={longest}",
            f"the encoder takes at most {limit} tokens",
            f"set data.text.max_length={limit}",
        )


def check_batch_norm(samples: int, network: Network) -> None:
    """Raise `UserError` if a device gets one sample and its statistics are those of single values,
    as where a picture has shrunk to one pixel.

    samples: of a micro-batch on each device.
    """
    if samples > 1 or network.kind != "image":
        return
    example = network.train().example()
    try:
        with torch.no_grad():
            network.features(Embedded(example.x[:1]))
    except ValueError as error:
        raise UserError(
            f"data.batch_size={samples}",
            f"batch normalization refuses one sample on a device ({first_line(error)})",
            "expected at least 2 for each device",
        ) from error


def check_recomputing(network: Network, settings: TrainerSettings) -> None:
    """Raise `UserError` where gradient checkpointing does not work with how the network is run."""
    if not network.recomputes:
        return
    key = "network.gradient_checkpointing=true"
    if settings.compile is not False and batch_normalizations(network.backbone):
        problem = "a compiled BatchNorm would update its running statistics twice"
        raise UserError(key, problem, "set trainer.compile=false, or leave it out")
    if settings.strategy == "fsdp":
        raise UserError(key, "was never tried with trainer.strategy=fsdp", "take ddp")
