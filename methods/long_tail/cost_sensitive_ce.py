"""Cost-sensitive cross-entropy. Elkan, The Foundations of Cost-Sensitive Learning, IJCAI 2001; as a
weight of rare classes in Zhang et al., Bag of Tricks for Long-Tailed Visual Recognition, AAAI 2021.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.errors import UserError, nearest
from foundation.types import Weight
from methods.long_tail.class_weights import ClassWeighting, ClassWeights, Reduction
from methods.long_tail.inverse_class_frequency import inverse_frequencies
from recipes.contract import Context, Declaration
from recipes.step import Step
from recipes.step.criterion import Role

Costs = Literal["auto"] | list[Weight] | list[list[Weight]]


def expected_cost(logits: Tensor, costs: Tensor) -> Tensor:
    """ℓ_y = Σ_j K_yj p_j for every y, [N, C] in float32. costs: K [C, C], zero on the diagonal; or
    k [C], where K_yj = k_y for all j ≠ y, so that ℓ_y = k_y (1 - p_y)."""
    log_p = F.log_softmax(logits.float(), dim=1)
    if costs.ndim == 1:
        return costs * -torch.expm1(log_p)
    return log_p.exp() @ costs.T


class CostSensitiveCE(ClassWeighting):
    """L = (1/N) Σ_i k_{y_i} CE(z_i, y_i), k_c the cost of an error on class c; or the expected cost
    (1/N) Σ_i Σ_j K_{y_i j} p_ij.

    When errors on some classes are dearer than on others, with costs that you know. Without them
    `auto` takes k_c = (n_min / n_c)^γ, which corrects the class prior as inverse frequencies do: it
    scales the loss down, the rarest class keeps weight 1. Given costs do not count as a correction
    of the prior and combine with one. Mixed targets: Σ_c t_c ℓ_c. Losses on pseudo-labels do not
    change.

    costs: `auto`, C costs k by true class, or C lists of C, the rows of K by true class. K is zero
        on the diagonal, and for form `expected_cost` alone.
    gamma: exponent γ of `auto`, at least 0; 1 (paper), 0.5: the square root; 0: equal costs.
    form: `weights` of the cross-entropy, or `expected_cost` K·p in place of it. That is at most the
        largest cost and has small gradients where p is wrong and sure, so it is for a network that
        is trained already; K = 1 - I gives 1 - p_y.
    reduction: divide the loss by `batch` N or by `weight` Σ_i k_{y_i}. `weight` is for form
        `weights`, and over the global batch (with accumulation: of each micro-batch).
    task: task that given costs are for; null: the first. `auto` is for all tasks.

    Raises UserError for costs that do not fit the task's classes, and for a diagonal that is not 0.
    """

    def __init__(
        self,
        costs: Costs = "auto",
        gamma: Weight = 1.0,
        form: Literal["weights", "expected_cost"] = "weights",
        reduction: Reduction = "batch",
        task: str | None = None,
    ):
        self.costs: Costs = costs
        self.gamma = gamma
        self.form = form
        self.reduction = reduction
        self.task = task
        matrix = costs != "auto" and any(isinstance(row, list) for row in costs)
        if matrix and form == "weights":
            raise UserError(
                "methods.cost_sensitive_ce.costs: a cost for every pair of classes is no weight of "
                "a sample; give one per class, or set form=expected_cost"
            )
        if form == "expected_cost" and reduction == "weight":
            raise UserError(
                "methods.cost_sensitive_ce.reduction=weight: form=expected_cost has no weights to "
                "divide by; set reduction=batch"
            )

    def declare(self) -> Declaration:
        slots = ["prior_correction"] if self.costs == "auto" else []
        tags: tuple[str, ...] = ("weighs_classes",)
        if self.form == "expected_cost":
            slots.append("class_losses")
            tags = ()
        return Declaration(slots=tuple(slots), tags=tags, sharded=True)

    def idle_settings(self) -> list[str]:
        equal = self.costs == "auto" and self.gamma == 0 and self.form == "weights"
        return ["gamma"] if equal else []

    def build(self, context: Context) -> None:
        if self.task is not None and self.task not in context.tasks:
            near = nearest(self.task, context.tasks)
            raise UserError(f"methods.{self.key}.task", f"no task '{self.task}'", near)
        super().build(context)

    def class_weights(self, task: str, context: Context) -> Tensor | None:
        """k [C], or K [C, C]."""
        if self.costs == "auto":
            return inverse_frequencies(context.statistics.counts(task), self.gamma, "min")
        if task != (self.task or next(iter(context.tasks))):
            return None
        return self.given(task, context.tasks[task].outputs)

    def given(self, task: str, classes: int) -> Tensor:
        """The costs of the config. Raises UserError."""
        key = f"methods.{self.key}.costs"
        lengths = {len(self.costs)}
        lengths |= {len(row) for row in self.costs if isinstance(row, list)}
        if lengths != {classes}:
            found = " and ".join(map(str, sorted(lengths)))
            raise UserError(
                key, f"found lists of {found} costs", f"task '{task}' has {classes} classes"
            )
        costs = torch.tensor(self.costs, dtype=torch.float32)
        if costs.ndim == 2 and costs.diagonal().any():
            raise UserError(
                key, "a true prediction has a cost", "expected a matrix with a diagonal of zeros"
            )
        return costs

    def sample_weights(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor | None:
        if self.form != "weights":
            return None
        return super().sample_weights(step, logits, target, task, role, context)

    def class_losses(
        self, step: Step, logits: Tensor, task: str, role: Role, context: Context
    ) -> Tensor | None:
        tables: dict[str, ClassWeights] = context.method_modules[self.key]
        if self.form != "expected_cost" or role != "labeled" or task not in tables:
            return None
        return expected_cost(logits, tables[task].weights)
