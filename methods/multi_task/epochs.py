"""Epochs in a run that counts steps."""

from foundation.distributed import world_size
from recipes.contract import Context
from recipes.step import Step


def steps_of_epoch(step: Step, context: Context) -> int:
    """Optimizer steps of one pass over the labeled samples, at least 1. Epoch e begins at step e
    times this."""
    rows = step.streams["labeled"].size * world_size() * context.trainer.accumulate_grad_batches
    return max(1, round(context.sizes["labeled"] / rows))
