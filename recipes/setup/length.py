"""How long a run is: steps, or passes of a stream that are steps once the samples are counted."""

from dataclasses import replace

from omegaconf import DictConfig

from foundation.errors import UserError
from recipes.config.keys import key_of
from recipes.setup.assemble import Assembly
from recipes.setup.spec import RunSpec, spec_of

STEPS, EPOCHS = "trainer.max_steps", "trainer.max_epochs"


def check_length(run: RunSpec | DictConfig) -> None:
    """Raise `UserError` if the command says both, of which one would have no effect."""
    spec = spec_of(run)
    said = {key_of(text) for text in spec.command}
    if {STEPS, EPOCHS} <= said and spec.config.trainer.max_epochs is not None:
        raise UserError(EPOCHS, f"the command gives {STEPS} too", "leave one out")


def in_steps(assembly: Assembly) -> Assembly:
    """The same with the steps of `trainer.max_epochs`, now that the data are read. Raises
    `UserError` for passes of a stream that the run does not have."""
    settings = assembly.trainer
    if settings.max_epochs is None:
        return assembly
    sizes = assembly.datamodule.batch_sizes()
    stream = settings.epoch_of
    if stream not in sizes:
        problem = "no method of this run uses unlabeled samples"
        raise UserError(f"trainer.epoch_of={stream}", problem, "expected labeled")
    each = sizes[stream] * settings.accumulate_grad_batches
    steps = max(round(settings.max_epochs * assembly.datamodule.sizes[stream] / each), 1)
    return replace(assembly, trainer=replace(settings, max_steps=steps))


def known_length(assembly: Assembly) -> bool:
    """Whether `max_steps` is that of the run already."""
    return assembly.trainer.max_epochs is None or bool(assembly.datamodule.parts)


def length_text(assembly: Assembly) -> str:
    """`1200 steps`, `1200 steps, 30 passes of the labeled samples`."""
    settings = assembly.trainer
    if settings.max_epochs is None:
        return f"{settings.max_steps} steps"
    passes = f"{settings.max_epochs:g} passes of the {settings.epoch_of} samples"
    return f"{settings.max_steps} steps, {passes}" if known_length(assembly) else passes
