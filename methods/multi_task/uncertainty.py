"""Uncertainty weighting. Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh
Losses, CVPR 2018, arXiv 1705.07115; the revised form after Liebel and Körner, 2018, arXiv
1805.06334."""

from functools import reduce
from operator import add
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.types import Scale
from methods.multi_task.losses import task_losses
from recipes.contract import Context, Declaration, Method
from recipes.step import Step

Form = Literal["classification", "regression", "revised"]
LIMIT = 10.0  # of |s|: beyond it the weight says nothing any more


def uncertain(loss: Tensor, s: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """A task's part of the loss, and its weight, the factor of L in it. Scalars.

    classification: e^-s L + s/2, s = ln σ². regression: e^-s L/2 + s/2, L the squared error.
    revised: s is σ itself, L/(2σ²) + ln(1 + σ²), always positive. s: the learned parameter.
    """
    if form == "revised":
        variance = (s.abs() + 1e-4).square()
        weight = 0.5 / variance
        return weight * loss + torch.log1p(variance), weight
    factor = 0.5 if form == "regression" else 1.0
    weight = torch.exp(-s) * factor
    return weight * loss + 0.5 * s, weight


class LogVariances(nn.Module):
    """values [T], one parameter a task."""

    def __init__(self, tasks: int, start: float, lr_scale: float):
        super().__init__()
        self.values = nn.Parameter(torch.full((tasks,), start))
        self.values._lr_scale = lr_scale  # type: ignore[attr-defined]
        # decay would pull every variance to one
        self.values._weight_decay = 0.0  # type: ignore[attr-defined]


class Uncertainty(Method):
    """L = Σ_t e^{-s_t} L_t + s_t/2 with s_t = ln σ_t² learnt along with the network; heads see the
    weights too.

    At fixed losses the optimum weighs a task by 1/(2 L_t), so a task that is overfitted weighs ever
    more. The total may be negative. s has no weight decay and is kept within ±10. A task without
    labels in a batch leaves its s alone.

    form: `classification` (paper, softmax losses), `regression` (½ e^{-s} L + s/2) or `revised`
        (Liebel). All our tasks have softmax losses. `regression` is the form of LibMTL, MTAN and
        torchjd for all tasks; `revised` is L/(2σ²) + ln(1 + σ²), σ learnt.
    init: s at the start, -10 to 10; 0 (MTAN: -0.5); of `revised`, σ = e^{init/2}.
    lr_scale: learning rate of s over the run's, above 0; 10 (ours).
    """

    declaration = Declaration(tasks_at_least=2, slots=("combine",), tags=("task_weights",))

    def __init__(
        self,
        form: Form = "classification",
        init: Annotated[float, Field(ge=-LIMIT, le=LIMIT)] = 0.0,
        lr_scale: Scale = 10.0,
    ):
        self.form = form
        self.init = init
        self.lr_scale = lr_scale

    def build(self, context: Context) -> None:
        start = self.init
        if self.form == "revised":
            start = float(torch.tensor(self.init / 2).exp())  # σ of ln σ² = init
        context.method_modules[self.key] = LogVariances(len(context.tasks), start, self.lr_scale)

    def parameter_groups(self, context: Context) -> list[dict[str, Any]]:
        return [{"params": list(self.module(context).parameters()), "weight_decay": 0.0}]

    def combine(self, step: Step, context: Context) -> Tensor:
        losses = task_losses(step)
        parameters = self.module(context).values
        if self.form != "revised":
            # the parameter itself, not in the graph: a clamped value has no gradient and would
            # never return from its bound
            parameters.data.clamp_(-LIMIT, LIMIT)
        parts = []
        by_task = zip(step.tasks, losses.by_task, parameters, losses.present, strict=True)
        for task, loss, s, present in by_task:
            part, weight = uncertain(loss, s, self.form)
            step.scalar(f"weight/{task}", weight)
            parts.append(torch.where(present, part, 0.0))
        return reduce(add, parts) + losses.rest
