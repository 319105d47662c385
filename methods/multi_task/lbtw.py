"""Loss-Balanced Task Weighting. Liu, Liang and Gitter, Loss-Balanced Task Weighting to Reduce
Negative Transfer in Multi-Task Learning, AAAI 2019, doi 10.1609/aaai.v33i01.33019977."""

from typing import Literal

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.types import Weight
from methods.multi_task.epochs import ONE_PASS, ends, epoch_steps
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import Weighting, WeightingState
from recipes.contract import Context
from recipes.step import Step

Reference = Literal["epoch_first", "train_first", "epoch_mean"]


def balanced_weights(losses: Tensor, reference: Tensor, alpha: float) -> Tensor:
    """w = (L_t / L_t(0))^α, [T]. reference: L(0), [T]."""
    return (losses / reference.clamp_min(1e-8)).clamp_min(0).pow(alpha)


class LBTWState(WeightingState):
    """reference [T]: L(0). waiting bool [T]: tasks whose next batch gives it. total, count [T]:
    losses of the epoch so far."""

    reference: Tensor
    waiting: Tensor
    total: Tensor
    count: Tensor

    def __init__(self, tasks: int):
        super().__init__(tasks)
        self.register_buffer("reference", torch.ones(tasks))
        self.register_buffer("waiting", torch.ones(tasks, dtype=torch.bool))
        self.register_buffer("total", torch.zeros(tasks))
        self.register_buffer("count", torch.zeros(tasks))


class LBTW(Weighting):
    """w_t = (L_t / L_t(0))^α: a task whose loss has fallen far since L_t(0) weighs less, so that
    fast tasks leave the network to slow ones.

    When some tasks learn much faster than others and pull the shared layers their way; its weights
    follow single batches, so they are noisy at small batch sizes. A loss weighting: heads see w, no
    gradient goes through it. In the batch that gives L(0) the weights are 1. L and L(0) are of the
    global batch; a task takes its L(0) from the first batch with labels of it. The authors train in
    evaluation mode, which is not copied.

    alpha: exponent α, at least 0; 0.5 (paper); 0: equal weights.
    reference: L(0): `epoch_first` (authors' code), `train_first` or `epoch_mean` (ours). The first
        batch of every epoch, of the run, or the mean of the epoch before; in the first epoch the
        mean is not known yet, and the first batch stands for it. UserError for `epoch_first` where
        an epoch is one step.
    normalize_sum: rescale w to the sum `tasks` (T; authors' code) or `one`; `none`: the bare
        formula. With `none` and `train_first` all weights fall along with the losses, and with them
        the length of the steps.
    """

    neutral = {"alpha": 0}

    def __init__(
        self,
        alpha: Weight = 0.5,
        reference: Reference = "epoch_first",
        normalize_sum: NormalizeSum = "tasks",
    ):
        self.alpha = alpha
        self.reference = reference
        self.normalize_sum = normalize_sum

    def state(self, tasks: int) -> LBTWState:
        return LBTWState(tasks)

    def task_weights(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        if self.reference == "epoch_first" and round(epoch_steps(step, context)) <= 1:
            raise UserError(
                f"methods.{self.key}.reference=epoch_first",
                "an epoch has one step here, so that every weight would be 1",
                "set it to train_first, or choose a smaller data.batch_size",
            )
        state: LBTWState = self.module(context)
        values = losses.whole()
        first = losses.present & state.waiting
        state.reference.copy_(torch.where(first, values, state.reference))
        state.waiting &= ~first
        state.total += torch.where(losses.present, values, 0)
        state.count += losses.present
        return balanced_weights(values, state.reference, self.alpha)

    def after_step(self, step: Step, context: Context) -> None:
        if self.reference == "train_first" or not ends(ONE_PASS, step, context):
            return
        state: LBTWState = self.module(context)
        if self.reference == "epoch_first":
            state.waiting.fill_(True)
        else:
            mean = state.total / state.count.clamp_min(1)
            state.reference.copy_(torch.where(state.count > 0, mean, state.reference))
        state.total.zero_()
        state.count.zero_()
