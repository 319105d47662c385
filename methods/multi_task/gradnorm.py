"""GradNorm. Chen, Badrinarayanan, Lee and Rabinovich, Gradient Normalization for Adaptive Loss
Balancing in Deep Multitask Networks, ICML 2018, arXiv 1711.02257."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Scale, Weight
from methods.multi_task.gram import GradSource
from methods.multi_task.losses import TaskLosses
from methods.multi_task.weighting import GramWeighting, WeightingState
from recipes.contract import Context
from recipes.step import Step


def balance_gradient(
    weights: Tensor, norms: Tensor, pace: Tensor, alpha: float, present: Tensor
) -> Tensor:
    """∂/∂w of Σ_t |w_t n_t - Ḡ r_t^α| with the target Ḡ r_t^α held fixed, [T]:
    sign(w_t n_t - Ḡ r_t^α) n_t.

    Closed form, since ‖∇(w_t L_t)‖ = w_t ‖∇L_t‖: no second derivatives. weights: w [T]. norms: n
    [T], ‖∇L_t‖ of the unweighted losses; Ḡ is the mean of w_t n_t. pace: [T], L_t/L_t(0); r is this
    over its mean. present: bool [T]; means are over the tasks present, the others get 0.
    """
    mask = present.to(weights.dtype)
    count = mask.sum().clamp_min(1)
    mean_norm = (mask * weights * norms).sum() / count
    mean_pace = (mask * pace).sum() / count
    r = pace / mean_pace.clamp_min(torch.finfo(pace.dtype).tiny)
    return mask * torch.sign(weights * norms - mean_norm * r.pow(alpha)) * norms


def descended(weights: Tensor, gradient: Tensor, lr: float, least: float) -> Tensor:
    """w ← max(w - lr ∇, least), rescaled to Σ w = T; [T]."""
    weights = (weights - lr * gradient).clamp_min(least)
    return weights * len(weights) / weights.sum()


class GradNormState(WeightingState):
    """upcoming [T]: the weights of the next step. initial [T]: L_t(0), 0 until the task was
    seen."""

    upcoming: Tensor
    initial: Tensor

    def __init__(self, tasks: int):
        super().__init__(tasks)
        self.register_buffer("upcoming", torch.ones(tasks))
        self.register_buffer("initial", torch.zeros(tasks))


class GradNorm(GramWeighting):
    """w ← w - lr ∂/∂w Σ_t |w_t ‖g_t‖ - Ḡ r_t^α|, then Σ w = T: a task that learns slowly gets a
    larger gradient.

    r_t = (L_t/L_t(0)) / mean of these, Ḡ = mean of w_t ‖g_t‖. The network's update uses the weights
    from before this one, and heads see them too: Σ w_t L_t is an ordinary loss. With accumulation
    every micro-batch is such a step.

    alpha: exponent α, at least 0; 1.5 (paper on NYUv2); 0: equal gradient norms.
    lr: learning rate of the weights, above 0; 0.025 (paper). Their gradient is ‖g_t‖, so it means
        more where gradients are large.
    min_weight: smallest weight, in (0, 1); 0.001 (ours): a step could make a weight negative.
    init_loss: L_t(0): loss of the `first_step` (paper) or `log_c`, ln of the number of classes. One
        lucky batch cannot spoil log_c.
    grad_source: gradients taken: `last_shared` (paper), `rep` or `shared`.
    layer: name of the parameter taken as last shared layer; null: the last weight before the heads.
    """

    def __init__(
        self,
        alpha: Weight = 1.5,
        lr: Scale = 0.025,
        min_weight: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
        init_loss: Literal["first_step", "log_c"] = "first_step",
        grad_source: GradSource = "last_shared",
        layer: str | None = None,
    ):
        super().__init__(grad_source, layer=layer)
        self.alpha = alpha
        self.lr = lr
        self.min_weight = min_weight
        self.init_loss = init_loss

    def state(self, tasks: int) -> GradNormState:
        return GradNormState(tasks)

    def build(self, context: Context) -> None:
        super().build(context)
        if self.init_loss == "log_c":
            outputs = torch.tensor([float(task.outputs) for task in context.tasks.values()])
            self.module(context).initial.copy_(outputs.log())

    def task_weights(self, losses: TaskLosses, step: Step, context: Context) -> Tensor:
        state = self.module(context)
        values = losses.whole()
        squared_norms = self.gram(losses, step, context).diagonal()
        norms = squared_norms.clamp_min(0).sqrt().to(values)
        first_seen = losses.present & (state.initial == 0)
        state.initial.copy_(torch.where(first_seen, values, state.initial))
        pace = values / state.initial.clamp_min(1e-8)
        weights = state.upcoming.clone()
        gradient = balance_gradient(weights, norms, pace, self.alpha, losses.present)
        moved = descended(weights, gradient, self.lr, self.min_weight)
        state.upcoming.copy_(torch.where(moved.isfinite().all(), moved, weights))
        return weights
