"""Frozen weights: what is frozen with them, and their lines in the plan."""

from collections.abc import Iterator

from omegaconf import DictConfig

from foundation.errors import UserError
from foundation.types import steps_of
from recipes.contract.composition import Composition
from recipes.contract.environment import Environment
from recipes.engine.trainer import TrainerSettings
from recipes.networks.freezing import BATCHNORM, FREEZE, UNFREEZE, matching
from recipes.networks.network import Network


def check_freezing(
    network: DictConfig,
    composition: Composition,
    environment: Environment,
    trainer: TrainerSettings,
) -> None:
    """Raise `UserError` for methods that freeze by themselves, or that keep a list of what trains,
    and for parameters in parts. `network.get`: an own network need not have the settings."""
    said = [key for key in (FREEZE, UNFREEZE, BATCHNORM) if network.get(key.rpartition(".")[2])]
    if not said:
        return
    if trainer.strategy == "fsdp":
        raise UserError(said[0], "was never tried with trainer.strategy=fsdp", "take ddp")
    for key, declaration in composition.declarations.items():
        option = environment.option(key)
        if "freezes_backbone" in declaration.tags:
            raise UserError(said[0], f"{option} freezes all but the heads", "leave one out")
        if UNFREEZE in said and composition.methods[key].implements("combine"):
            problem = f"{option} compares gradients of weights that must train throughout"
            raise UserError(UNFREEZE, problem, "leave one out")


def frozen_lines(network: Network, total_steps: int) -> Iterator[str]:
    """What the plan says. total_steps: of the run; 0 if they are not known yet."""
    request = network.freezing
    for pattern in request.patterns:
        names = matching(network, pattern, FREEZE) - network.waiting.keys()
        yield f"frozen: {pattern}, {weights(network, names)}"
    for pattern, when in request.unfreeze_at.items():
        size = weights(network, matching(network, pattern, UNFREEZE) & network.waiting.keys())
        step = steps_of(when, total_steps) if total_steps else when
        yield f"frozen until step {step}: {pattern}, {size}"
    if request.batchnorm:
        what = ", scale and shift" if request.batchnorm == "affine" else ""
        yield f"BatchNorm keeps its running statistics{what}"


def weights(network: Network, names: set[str]) -> str:
    return f"{sum(network.get_parameter(name).numel() for name in names):,} parameters"


def late_lines(network: Network, total_steps: int) -> Iterator[str]:
    """Patterns whose step the run does not reach."""
    for pattern, when in network.freezing.unfreeze_at.items():
        if total_steps and steps_of(when, total_steps) >= total_steps:
            yield f"{UNFREEZE}.{pattern}: {when} is not reached, the run has {total_steps} steps"
