"""Whether data and methods allow the settings of the trainer: parts of parameters, skipped batches,
several devices."""

from foundation.errors import UserError
from recipes.contract.composition import Composition
from recipes.contract.environment import Environment
from recipes.engine.trainer import TrainerSettings, devices_of


def check_strategy(
    trainer: TrainerSettings, composition: Composition, environment: Environment, probes: bool
) -> None:
    """Raise `UserError` if parameters would be sharded over devices and something cannot bear
    it."""
    key = f"trainer.strategy={trainer.strategy}"
    if trainer.strategy != "fsdp":
        if trainer.strategy.startswith(("fsdp", "deepspeed", "model_parallel")):
            problem = "is not among the ways to split parameters here"
            raise UserError(key, problem, "expected fsdp, or ddp")
        return
    unable = [
        environment.option(name)
        for name, declaration in composition.declarations.items()
        if declaration.networks or not declaration.sharded
    ]
    if unable:
        problem = f"is not declared exact by {', '.join(unable)}"
        raise UserError(key, problem, "leave out what is not, or take ddp")
    if environment.kind == "text" or probes:
        what = (
            "an encoder of texts" if environment.kind == "text" else "a measurement under evaluate"
        )
        raise UserError(key, f"{what} needs whole parameters", "expected ddp")
    if environment.compile:
        problem = "a compiled network was never tried in parts"
        raise UserError(key, problem, "set trainer.compile=false, or take ddp")
    if environment.devices < 2:
        problem = f"trainer.devices={trainer.devices}"
        raise UserError(key, problem, "expected a number of at least 2")


def check_nonfinite(trainer: TrainerSettings, composition: Composition) -> None:
    """Raise `UserError` if a batch cannot be left out: on several devices at once, or in the
    middle of a step."""
    if trainer.nonfinite != "skip":
        return
    key = "trainer.nonfinite=skip"
    if trainer.devices in ("auto", -1) or devices_of(trainer) > 1:
        remedy = "set trainer.devices=1, or trainer.nonfinite=stop"
        raise UserError(key, "is for one device", remedy)
    repeating = next(iter(composition.implementing("wrap_step")), None)
    if repeating is not None:
        problem = (
            f"{repeating.key} goes through a batch more than once, and half of a step cannot be "
            "left out"
        )
        raise UserError(key, problem, "set trainer.nonfinite=stop")


def check_batch(size: int, devices: int) -> None:
    """Every rank takes an equal part of the batch. Raises `UserError`."""
    if not size % devices:
        return
    below = size - size % devices
    near = [str(n) for n in (below, below + devices) if n]
    problem = f"is the batch over all {devices} devices and must divide by their number"
    raise UserError(f"data.batch_size={size}", problem, f"expected e.g. {' or '.join(near)}")
