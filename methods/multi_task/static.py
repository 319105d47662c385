"""Fixed weights. Kurin et al., In Defense of the Unitary Scalarization for Deep Multi-Task
Learning, NeurIPS 2022, arXiv 2201.04122: tuned well, the plain sum matches what weighs more
cleverly."""

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import Weighting, WeightingState
from recipes.contract import Context
from recipes.step import Step


class Static(Weighting):
    """L = Σ_t w_t L_t with w given; without this or another weighting a run takes the plain sum, w
    = 1.

    weights: a weight for every task, in their order; null: 1 each.
    normalize_sum: rescale w to the sum `one` or `tasks` (T); `none`: as given. The sum is over the
        tasks that a batch has labels of; with equal weights `one` is the mean of the losses.
    """

    def __init__(self, weights: list[float] | None = None, normalize_sum: NormalizeSum = "none"):
        self.weights = weights
        self.normalize_sum = normalize_sum

    def state(self, tasks: int) -> WeightingState:
        if self.weights is not None and (len(self.weights) != tasks or min(self.weights) < 0):
            raise UserError(
                f"methods.{self.key}.weights={self.weights}: expected {tasks} numbers of at least 0"
            )
        state = WeightingState(tasks)
        weights = torch.ones(tasks) if self.weights is None else torch.tensor(self.weights)
        state.register_buffer("given", weights)
        return state

    def task_weights(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        module: nn.Module = self.module(context)
        return module.get_buffer("given").clone()
