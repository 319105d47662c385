"""GradNorm. Chen, Badrinarayanan, Lee and Rabinovich, Gradient Normalization for Adaptive Loss
Balancing in Deep Multitask Networks, ICML 2018, arXiv 1711.02257."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.multi_task.gram import GradSource
from methods.multi_task.losses import TaskLosses
from methods.multi_task.weighting import GramWeighting, WeightingState
from recipes.contract import Context
from recipes.step import Step


def balance_gradient(
    weights: Tensor, norms: Tensor, pace: Tensor, alpha: float, present: Tensor
) -> Tensor:
    """∂/∂w of Σ_t |w_t n_t - Ḡ r_t^α|, Ḡ the mean of w_t n_t, target held fixed: sign(w_t n_t - Ḡ
    r_t^α) n_t.

    Closed form, since ‖∇(w_t L_t)‖ = w_t ‖∇L_t‖: no second derivatives. norms n: [T] of unweighted
    gradients. pace: [T], L_t/L_t(0); r is this over its mean. Means are over the tasks present,
        [T]; the others get 0.
    """
    here = present.to(weights.dtype)
    count = here.sum().clamp_min(1)
    mean = (here * weights * norms).sum() / count
    r = pace / ((here * pace).sum() / count).clamp_min(torch.finfo(pace.dtype).tiny)
    return here * torch.sign(weights * norms - mean * r.pow(alpha)) * norms


def descended(weights: Tensor, gradient: Tensor, lr: float, least: float) -> Tensor:
    """w ← max(w - lr ∇, least), rescaled to Σ w = T."""
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
        alpha: Annotated[float, Field(ge=0)] = 1.5,
        lr: Annotated[float, Field(gt=0)] = 0.025,
        min_weight: Annotated[float, Field(gt=0, lt=1)] = 1e-3,
        init_loss: Literal["first_step", "log_c"] = "first_step",
        grad_source: GradSource = "last_shared",
        layer: str | None = None,
    ):
        self.alpha, self.lr, self.min_weight, self.init_loss = alpha, lr, min_weight, init_loss
        self.grad_source, self.layer = grad_source, layer

    def state(self, tasks: int) -> GradNormState:
        return GradNormState(tasks)

    def build(self, context: Context) -> None:
        super().build(context)
        if self.init_loss == "log_c":
            outputs = torch.tensor([float(task.outputs) for task in context.tasks.values()])
            self.module(context).initial.copy_(outputs.log())

    def task_weights(self, found: TaskLosses, step: Step, context: Context) -> Tensor:
        state, losses = self.module(context), found.whole()
        norms = self.gram(found, step, context).diagonal().clamp_min(0).sqrt().to(losses)
        state.initial.copy_(
            torch.where(found.present & (state.initial == 0), losses, state.initial)
        )
        pace = losses / state.initial.clamp_min(1e-8)
        weights = state.upcoming.clone()
        gradient = balance_gradient(weights, norms, pace, self.alpha, found.present)
        moved = descended(weights, gradient, self.lr, self.min_weight)
        state.upcoming.copy_(torch.where(moved.isfinite().all(), moved, weights))
        return weights
