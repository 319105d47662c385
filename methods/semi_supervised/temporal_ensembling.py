"""Temporal Ensembling. Laine and Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017,
arXiv 1610.02242."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.types import Share
from methods.semi_supervised.consistency import labeled_fraction, squared_distance
from methods.semi_supervised.targets import make_targets, scores_of
from recipes.contract import Context, Declaration, Method
from recipes.services.statistics import SampleMemory
from recipes.step import Step
from recipes.step.ramps import Ramp, RampKind


def accumulate(average: Tensor, prediction: Tensor, momentum: float) -> Tensor:
    """Z ← α Z + (1-α) z, rows [N, C]; Z starts at zero, and the stored Z has no bias correction."""
    return momentum * average + (1.0 - momentum) * prediction


def bias_corrected(average: Tensor, updates: Tensor, momentum: float) -> Tensor:
    """Z / (1 - α^k), [N, C], with k = `updates` [N]; rows with k = 0 stay zero."""
    weight = 1.0 - momentum ** updates.to(average.dtype)
    return average / torch.where(updates > 0, weight, 1.0).unsqueeze(1)


class TemporalEnsembling(Method):
    """L = CE + w(t) · mean_i (1/C) ‖p(x_i) - sg z̃_i‖², z̃_i = Z_i / (1-α^k), Z_i the moving
    average of the sample's own predictions at its k earlier visits.

    One forward per sample, where the Π-Model has two. An epoch is one pass over the unlabeled set
    and visits every sample once, so updating a row right after its visit gives the next pass the
    same target as updating all rows at the end of the pass. A sample's first visit has no target
    and is masked (the paper's first epoch). k counts visits per row: the authors' code writes zeros
    for samples that a pass has missed. The table (samples × C, one per task, float32; above 512 MiB
    float16 on the host) is equal on all ranks and part of the checkpoint. The unlabeled set
    contains the labeled samples. w(t) = weight · (M/N) · ramp with M/N the labeled fraction.

    weight: largest weight of the consistency loss, at least 0; 30 (paper), multiplied by
        label_fraction.
    label_fraction: multiply the weight by M/N, the labeled fraction (paper).
    momentum: α of the moving average of a sample's predictions, in [0, 1); 0.6 (paper).
    ramp: growth of the weight: `constant`, `linear` or `sigmoid` (paper).
    ramp_end: share of the run after which the weight is full, 0 to 1; 0.27 (paper: 80 of 300
        epochs).
    """

    declaration = Declaration(
        views={"unlabeled": ("weak",)},
        slots=("predicted_labels",),
        tags=("unlabeled_loss",),
        lower_on_collapse=("weight",),
    )

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 30.0,
        label_fraction: bool = True,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.6,
        ramp: RampKind = "sigmoid",
        ramp_end: Share = 0.27,
    ):
        self.weight = weight
        self.label_fraction = label_fraction
        self.momentum = momentum
        self.ramp = Ramp(ramp, end=ramp_end)

    def build(self, context: Context) -> None:
        samples = context.sizes["unlabeled"]
        tables = {
            name: SampleMemory(samples, (task.outputs,)) for name, task in context.tasks.items()
        }
        context.method_modules[self.key] = nn.ModuleDict(tables)

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak")

    def terms(self, step: Step, context: Context) -> None:
        fraction = labeled_fraction(context) if self.label_fraction else 1.0
        weight = self.weight * fraction * self.ramp(step.progress)
        index = step.streams["unlabeled"].index
        for task in step.tasks:
            memory = context.method_modules[self.key][task]
            visits = memory.writes[index]
            q = bias_corrected(memory.read(index), visits, self.momentum)
            p = torch.softmax(step.logits("unlabeled/weak", task), dim=1)
            values = squared_distance(p, make_targets(scores_of(q)).value)
            step.term(
                step.term_name(self.key, task), values, weight=weight, mask=visits > 0, task=task
            )

    @torch.no_grad()
    def after_batch(self, step: Step, context: Context) -> None:
        index = step.streams["unlabeled"].index
        for task in step.tasks:
            memory = context.method_modules[self.key][task]
            p = torch.softmax(step.logits("unlabeled/weak", task), dim=1)
            memory.write(index, accumulate(memory.read(index), p, self.momentum))
