"""Dynamic Weight Average. Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention,
CVPR 2019, arXiv 1803.10704."""

import torch
from torch import Tensor

from foundation.types import Count, Scale
from methods.multi_task.epochs import ONE_PASS, ends, epoch_steps
from methods.multi_task.losses import TaskLosses
from methods.multi_task.weighting import Weighting, WeightingState
from recipes.contract import Clock, Context
from recipes.step import Step


def average_weights(last: Tensor, before: Tensor, temperature: float) -> Tensor:
    """w = T softmax(r / τ), r_t = L̄_t(e-1) / L̄_t(e-2), [T]. last, before: L̄(e-1), L̄(e-2), [T].
    temperature: τ."""
    ratios = last / before.clamp_min(1e-12)
    return len(last) * torch.softmax(ratios / temperature, 0)


class DWAState(WeightingState):
    """total, count [T]: losses of the window so far. last [T]: mean of the one before. upcoming
    [T]: weights."""

    def __init__(self, tasks: int):
        super().__init__(tasks)
        for name in ("total", "count", "last"):
            self.register_buffer(name, torch.zeros(tasks))
        self.register_buffer("upcoming", torch.ones(tasks))


class DWA(Weighting):
    """w_t(e) = T exp(r_t/τ) / Σ_k exp(r_k/τ), r_t = L̄_t(e-1) / L̄_t(e-2): a task whose loss falls
    slowly weighs more.

    L̄ is the mean unweighted training loss of a window, over the steps that held labels of the
    task; w = 1 in the first two windows. A loss weighting: heads see w. The spread is small by
    construction: with τ = 2 and ratios of .8 to 1.1 weights stay within some 8 % of one.

    temperature: τ, above 0; 2 (paper); a large one makes all weights 1.
    window: optimizer steps of an epoch e, at least 1; null: one pass over the labeled samples
        (paper).
    """

    def __init__(
        self,
        temperature: Scale = 2.0,
        window: Count | None = None,
    ):
        self.temperature = temperature
        self.window = window

    def state(self, tasks: int) -> DWAState:
        return DWAState(tasks)

    def task_weights(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        state = self.module(context)
        state.total += torch.where(losses.present, losses.whole(), 0)
        state.count += losses.present
        return state.upcoming

    def after_step(self, step: Step, context: Context) -> None:
        if not ends(Clock.every_steps(self.window) if self.window else ONE_PASS, step, context):
            return
        state = self.module(context)
        mean = torch.where(state.count > 0, state.total / state.count.clamp_min(1), state.last)
        if step.progress.step + 1 >= 2 * (self.window or epoch_steps(step, context)):
            state.upcoming.copy_(average_weights(mean, state.last, self.temperature))
        state.last.copy_(mean)
        state.total.zero_()
        state.count.zero_()
