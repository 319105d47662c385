"""Epochs in a run that counts steps."""

from foundation.distributed import world_size
from recipes.contract import Clock, Context
from recipes.step import Step

ONE_PASS = Clock.every_pass("labeled")


def epoch_steps(step: Step, context: Context) -> float:
    """Optimizer steps of one pass over the labeled samples, which need not be a whole number."""
    rows = step.streams["labeled"].size * world_size() * context.trainer.accumulate_grad_batches
    return context.sizes["labeled"] / rows


def ends(clock: Clock, step: Step, context: Context) -> bool:
    """Whether a period of the clock ends with this step: the next step begins another one."""
    done = step.progress.step + 1
    return clock.next_after(done - 1, done + 1, lambda _: epoch_steps(step, context)) == done
