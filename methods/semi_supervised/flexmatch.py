"""FlexMatch. Zhang et al., Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling,
NeurIPS 2021, arXiv 2110.08263."""

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.types import Share
from methods.semi_supervised.fixmatch import FixMatch
from methods.semi_supervised.targets import Mask, confident
from recipes.contract import Context
from recipes.services.statistics import SampleMemory
from recipes.step import Step

Mapping = Literal["convex", "linear", "concave"]
UNUSED = -1


def learning_status(table: Tensor, classes: int) -> Tensor:
    """σ [C + 1]: how many samples of the table [N] are believed to be of each class, and last how
    many are unused.

    Counted afresh, on the device: one pass over N integers, and no second state that could come
    apart from the table.
    """
    counts = torch.zeros(classes + 1, device=table.device)
    return counts.index_add_(0, table % (classes + 1), torch.ones_like(table, dtype=counts.dtype))


def class_thresholds(
    status: Tensor, threshold: float, mapping: Mapping = "convex", warmup: bool = True
) -> Tensor:
    """T(c) = τ M(β_c), [C], with β_c = σ_c / max(max σ, number of unused), without warm-up β_c =
    σ_c / max σ.

    status: [C + 1] of `learning_status`. M: convex β / (2 - β), linear β, concave log(1 + β) / log
        2.
    """
    used = status[:-1]
    unused = status[-1]
    most = used.amax()
    beta = used / (torch.maximum(most, unused) if warmup else most).clamp_min(1.0)
    if mapping == "convex":
        return threshold * (beta / (2.0 - beta))
    return threshold * (beta if mapping == "linear" else torch.log2(1.0 + beta))


class FlexMatch(FixMatch):
    """FixMatch with a threshold for every class, m = 1[max q ≥ T(argmax q)], lower where fewer
    samples are learnt.

    T(c) = τ M(β_c); β_c compares σ_c, the number of unlabeled samples whose last prediction was
    class c with a confidence above the *fixed* τ, with the best learnt class. A table keeps that
    prediction for every sample of the unlabeled set, by its index; it is written after the batch,
    gathered over all ranks, and never forgets a sample. At the start all thresholds are 0 and every
    sample passes, as published. Harmful where classes are rare by nature: their thresholds stay
    low.

    threshold: confidence τ of a fully learnt class, the largest threshold; 0.95 (paper).
    weight: factor λ_u of the unlabeled loss, at least 0; 1 (paper).
    mapping: M(β): `convex` β/(2-β) (paper's choice), `linear` or `concave`.
    threshold_warmup: keep thresholds low until most samples have been learnt; true (paper).
        Compares with the number of unused samples as long as it is larger.
    mask_reduction: denominator of the unlabeled loss: `all` (U, paper) or `kept` (confident
        samples).
    warmup: share of the run, 0 to 1, on labels alone; 0 (paper).
    """

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0)] = 0.95,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        mapping: Mapping = "convex",
        threshold_warmup: bool = True,
        mask_reduction: Literal["all", "confident"] = "all",
        warmup: Share = 0.0,
    ):
        super().__init__(threshold, weight, mask_reduction, warmup)
        self.mapping = mapping
        self.threshold_warmup = threshold_warmup

    def build(self, context: Context) -> None:
        rows = context.sizes["unlabeled"]
        tables = {
            task: SampleMemory(rows, fill=UNUSED, dtype=torch.int64) for task in context.tasks
        }
        context.method_modules[self.key] = nn.ModuleDict(tables)

    def mask(self, task: str, context: Context) -> Mask:
        status = learning_status(
            context.method_modules[self.key][task].table, context.tasks[task].outputs
        )
        limits = class_thresholds(status, self.threshold, self.mapping, self.threshold_warmup)
        return partial(confident, threshold=limits)

    def after_batch(self, step: Step, context: Context) -> None:
        index = step.streams["unlabeled"].index
        for task in step.tasks:
            pseudo = step.pseudo[task]
            sure = confident(pseudo.confidence, pseudo.labels, self.threshold)
            context.method_modules[self.key][task].write(index, pseudo.labels, where=sure)
