"""What the methods share that weight a sample by its class: the tables of weights and what the loss
is divided by."""

from typing import Literal

import torch
from torch import Tensor, nn

from foundation.distributed import global_sum
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import Role, of_target

Reduction = Literal["batch", "weight"]


class ClassWeights(nn.Module):
    """The weights of one task's classes, [C]."""

    weights: Tensor

    def __init__(self, weights: Tensor):
        super().__init__()
        self.register_buffer("weights", weights)


def mean_weight(weights: Tensor, target: Tensor) -> Tensor:
    """Σ_i w_{y_i} over the number of labels, of the global batch: dividing the weights by it turns
    the mean over samples into a weighted mean. weights: [N, C]. target: [N] or [N, C]."""
    total = global_sum(of_target(weights, target).sum())
    labels = global_sum(of_target(torch.ones_like(weights), target).sum())
    return (total / labels.clamp_min(1e-12)).clamp_min(1e-12)


def with_sum_of_classes(weights: Tensor) -> Tensor:
    """Weights [C] scaled so that those of the classes that occur, w > 0, have the mean 1."""
    return weights * (weights > 0).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


class ClassWeighting(Method):
    """Σ_i w_{y_i} ℓ_i / N, or over Σ_i w_{y_i}, with w of `class_weights`.

    A subclass fills `class_weights` and may override `declare`. reduction: what the loss is divided
    by, `batch` or `weight`.
    """

    reduction: Reduction = "batch"
    declaration = Declaration(slots=("prior_correction",), tags=("weighs_classes",), sharded=True)

    def class_weights(self, task: str, context: Context) -> Tensor | None:
        """[C] weights in float32 of a task's classes; None: its samples are not weighted."""
        raise TypeError(f"{type(self).__name__} has no class weights")

    def build(self, context: Context) -> None:
        tables = nn.ModuleDict()
        for task in context.tasks:
            weights = self.class_weights(task, context)
            if weights is not None:
                tables[task] = ClassWeights(weights)
        context.method_modules[self.key] = tables

    def sample_weights(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor | None:
        tables = context.method_modules[self.key]
        if role != "labeled" or task not in tables:
            return None
        weights: Tensor = tables[task].weights.expand(len(logits), -1)
        if self.reduction == "weight":
            weights = weights / mean_weight(weights, target)
        return weights
