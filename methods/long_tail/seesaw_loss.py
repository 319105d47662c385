"""Seesaw loss. Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, CVPR 2021, arXiv
2008.10032."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from foundation.distributed import global_sum
from foundation.errors import UserError
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import Role

ONE_CLASS = (
    "its weights need the one true class of a sample, which mixed or smoothed targets do not have"
)


def seesaw(
    logits: Tensor, target: Tensor, counts: Tensor, p: float, q: float, eps: float
) -> Tensor:
    """z + log S, S_yj = M_yj K_yj, S_yy = 1, [N, C] in float32. target: [N]; counts N_c: [C].

    M_yj = min(1, (N_j / N_y)^p), K_yj = max(1, (σ_j / max(σ_y, eps))^q), σ = softmax(z) without
    gradient.
    """
    # logarithms of the factors, only for the labels of these N rows: no C x C table
    z = logits.float()
    label = target.clamp_min(0).unsqueeze(1)
    log_n = counts.float().clamp_min(1).log()
    mitigation = (p * (log_n - log_n[label])).clamp_max(0)
    log_sigma = F.log_softmax(z.detach(), dim=1)
    own = log_sigma.gather(1, label).exp().clamp_min(eps).log()
    shift = mitigation + (q * (log_sigma - own)).clamp_min(0)
    return z + shift.scatter(1, label, 0.0)


class SeenLabels(nn.Module):
    """The number of labels of each class seen so far in this run, [C], over all ranks."""

    counts: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def add(self, labels: Tensor) -> None:
        # a missing label (-1) adds 0 to class 0
        known = (labels >= 0).long()
        seen = torch.zeros_like(self.counts).index_add_(0, labels.clamp_min(0), known)
        self.counts += global_sum(seen)


class SeesawLoss(Method):
    """L = -log(e^{z_y} / (e^{z_y} + Σ_{j≠y} M_yj K_yj e^{z_j})): samples of frequent classes
    suppress rare classes less, and classes that score above the true one are suppressed more.

    Mitigation M_yj = min(1, (N_j/N_y)^p), compensation K_yj = max(1, (σ_j/σ_y)^q) with σ_y ≥ eps.
    Neither factor has a gradient. The paper's normalized linear head is not included. Losses on
    pseudo-labels do not change.

    p: exponent of the mitigation, at least 0; 0.8 (paper); 0: none.
    q: exponent of the compensation, at least 0; 2 (paper); 0: none.
    eps: smallest σ_y in the compensation, in (0, 1); 0.01 (reference code).
    counts: class counts N: labels seen so far, `online` (paper), or those of the training set,
        `dataset`. `online` counts over all ranks, the current batch included (in the reference code
        each rank has its own counters).
    """

    def __init__(
        self,
        p: Annotated[float, Field(ge=0)] = 0.8,
        q: Annotated[float, Field(ge=0)] = 2.0,
        eps: Annotated[float, Field(gt=0, lt=1)] = 0.01,
        counts: Literal["online", "dataset"] = "online",
    ):
        self.p = p
        self.q = q
        self.eps = eps
        self.online = counts == "online"

    def declare(self) -> Declaration:
        return Declaration(
            slots=("prior_correction",) if self.p else (),
            tags=("adjusts_logits",),
            refuses={"soft_targets": f"{ONE_CLASS}; leave one out"},
        )

    def build(self, context: Context) -> None:
        if self.online:
            seen = {name: SeenLabels(task.outputs) for name, task in context.tasks.items()}
            context.method_modules[self.key] = nn.ModuleDict(seen)

    def prepare(self, step: Step, context: Context) -> None:
        if self.online and not step.replay:
            for task, labels in step.streams["labeled"].targets.items():
                context.method_modules[self.key][task].add(labels)

    def adjust(
        self,
        step: Step,
        logits: Tensor,
        target: Tensor | None,
        task: str,
        role: Role,
        context: Context,
    ) -> Tensor:
        if role != "labeled" or target is None:
            return logits
        if target.ndim == 2:
            raise UserError(
                f"methods.{self.key}: {ONE_CLASS}; leave out the method that mixes or smooths them"
            )
        if self.online:
            counts = context.method_modules[self.key][task].counts
        else:
            counts = context.statistics.counts(task)
        return seesaw(logits, target, counts, self.p, self.q, self.eps)
