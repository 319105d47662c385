"""FlexMatch. Zhang et al., Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling,
NeurIPS 2021, arXiv 2110.08263."""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.types import Share, Steps
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.targets import Mask, confident
from recipes.contract import Context
from recipes.services.statistics import SampleMemory
from recipes.step import Step

Mapping = Literal["convex", "linear", "concave"]
UNUSED = -1


def learning_status(table: Tensor, classes: int) -> Tensor:
    """σ [C + 1]: how many samples of the table [N] have each class as pseudo-label; the last entry
    is the number of unused samples.

    Recounted on the device in every step: one pass over N integers, and no second state that could
    disagree with the table.
    """
    # UNUSED = -1 becomes the last class, C
    counts = torch.zeros(classes + 1, device=table.device)
    return counts.index_add_(0, table % (classes + 1), torch.ones_like(table, dtype=counts.dtype))


def class_thresholds(
    status: Tensor,
    threshold: float,
    mapping: Mapping = "convex",
    warmup: bool = True,
    lowest: float = 0.0,
) -> Tensor:
    """T(c) = τ max(M(β_c), lowest), [C], with β_c = σ_c / max(max σ, number of unused), without
    warm-up β_c = σ_c / max σ.

    status: [C + 1] of `learning_status`. M: convex β / (2 - β), linear β, concave log(1 + β) / log
        2.
    """
    used = status[:-1]
    largest = used.amax()
    if warmup:
        largest = torch.maximum(largest, status[-1])
    beta = used / largest.clamp_min(1.0)
    if mapping == "convex":
        beta = beta / (2.0 - beta)
    elif mapping == "concave":
        beta = torch.log2(1.0 + beta)
    return threshold * beta.clamp_min(lowest)


class FlexMatch(FixMatch):
    """FixMatch with one threshold per class, m = 1[max q ≥ T(argmax q)], lower for classes with
    fewer learned samples.

    T(c) = τ max(M(β_c), lowest); β_c is σ_c relative to the best learned class, σ_c being the
    number of unlabeled samples whose last confident prediction (above the *fixed* τ) was class c. A
    table stores that prediction per unlabeled sample, by index; it is updated after each batch from
    all ranks, and entries are never removed. At the start all thresholds are at their lowest; as
    published that is 0, and every sample passes. Harmful on long-tailed data: thresholds of rare
    classes stay low.

    threshold: confidence τ of a fully learned class, the largest threshold; 0.95 (paper).
    weight: factor λ_u of the unlabeled loss, at least 0; 1 (paper).
    mapping: M(β): `convex` β/(2-β) (paper's choice), `linear` or `concave`.
    threshold_warmup: keep thresholds low until most samples have been learned; true (paper).
        Compares with the number of unused samples as long as it is larger.
    lowest: smallest threshold of a class as a share of `threshold`, 0 to 1; 0 (paper); 0.75 (ours).
        A run of few passes over its unlabeled samples ends before thresholds have grown from 0.
    mask_reduction: denominator of the unlabeled loss: `all` (U, paper) or `confident`
        samples.
    warmup: share of the run, 0 to 1, on labels alone; 0 (paper).
    align: batches whose mean prediction is aligned with the frequencies of the labels; 0: none
        (paper); 32 (ours), which keeps runs on texts from falling to one class. It assumes that
        unlabeled samples have the labels' frequencies.
    """

    neutral = {"warmup": 1}

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0)] = 0.95,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        mapping: Mapping = "convex",
        threshold_warmup: bool = True,
        lowest: Share = 0.75,
        mask_reduction: Literal["all", "confident"] = "all",
        warmup: Share = 0.0,
        align: Steps = 32,
    ):
        super().__init__(threshold, weight, mask_reduction, warmup, align)
        self.mapping = mapping
        self.threshold_warmup = threshold_warmup
        self.lowest = lowest

    def idle_settings(self) -> list[str]:
        # above 1 no class is ever learned, and samples pass the lowest threshold all the same
        passable = self.threshold * self.lowest <= 1
        return [name for name in super().idle_settings() if name != "threshold" or not passable]

    def build(self, context: Context) -> None:
        super().build(context)
        tables = nn.ModuleDict()
        for task in context.tasks:
            rows = context.sizes["unlabeled"]
            tables[task] = SampleMemory(rows, fill=UNUSED, dtype=torch.int64)
        context.method_modules[self.key] = tables

    def mask(self, task: str, context: Context) -> Mask:
        memory = context.method_modules[self.key][task]
        status = learning_status(memory.table, context.tasks[task].outputs)
        thresholds = class_thresholds(
            status, self.threshold, self.mapping, self.threshold_warmup, self.lowest
        )
        return partial(confident, threshold=thresholds)

    def after_batch(self, step: Step, context: Context) -> None:
        super().after_batch(step, context)
        index = step.streams["unlabeled"].index
        for task in step.tasks:
            pseudo = step.pseudo[task]
            # the fixed τ, not T(c): a class with a low threshold would count as learned at once
            sure = confident(pseudo.confidence, pseudo.labels, self.threshold)
            context.method_modules[self.key][task].write(index, pseudo.labels, where=sure)
