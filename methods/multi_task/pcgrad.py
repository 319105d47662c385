"""PCGrad. Yu, Kumar, Gupta, Levine, Hausman and Finn, Gradient Surgery for Multi-Task Learning,
NeurIPS 2020, arXiv 2001.06782."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foundation.types import Count
from methods.multi_task.gram import GradSource
from methods.multi_task.host import like_tensor, to_numpy_on_cpu
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import GramWeighting, without_absent
from recipes.step import Step


@np.errstate(all="ignore")  # NaN in G gives NaN in w, which `Weighting` does not take
def projected_weights(gram: Tensor, order: Tensor) -> Tensor:
    """w = Σ_i C_i, [T], with g_i^PC = Σ_j C_ij g_j, the gradients after Algorithm 1 of the paper.

    Row i of C is e_i at first. For j in order[i], j ≠ i: where ⟨g_i^PC, g_j⟩ = (C G)_ij < 0, the
    projection on the *original* g_j is taken out, C_ij -= (C G)_ij / ‖g_j‖².

    gram: G [T, T]. order: [T, T], a permutation of the tasks in each row.
    """
    tasks = torch.arange(len(gram), device=gram.device)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    g, order, tasks, coefficients = to_numpy_on_cpu(gram, order, tasks, identity)
    squared_norms = g.diagonal().clip(torch.finfo(gram.dtype).tiny)
    for j in order.T:  # the next partner of every task, all tasks at once
        inner_products = (coefficients * g.T[j]).sum(1)
        conflict = (inner_products < 0) & (j != tasks)
        coefficients[tasks, j] -= conflict * inner_products / squared_norms[j]
    return like_tensor(coefficients.sum(0), gram)


class PCGrad(GramWeighting):
    """g_i ← g_i - (g_i·g_j / ‖g_j‖²) g_j wherever g_i·g_j < 0, for all j ≠ i in random order; the
    update is Σ_i g_i.

    Two tasks in conflict: w = (1 - G_12/G_11, 1 - G_12/G_22); without conflict w = 1, the plain
    sum. The order of the projections is drawn anew in every step, equal on all ranks. No task is
    projected on itself (LibMTL does that).

    grad_source: gradients taken: `shared` (paper), `last_shared` or `rep`, of the shared
        representation. `rep` costs backwards through heads alone.
    reduction: update: `sum` of the projected gradients (paper) or their `mean`.
    normalize_sum: rescale w to the sum `one` or `tasks` (T); `none` (paper).
    scale_heads: weight the losses of heads by w too; false (paper).
    update_every: optimizer steps between two solutions, at least 1; 1 (paper).
    """

    def __init__(
        self,
        grad_source: GradSource = "shared",
        reduction: Literal["sum", "mean"] = "sum",
        normalize_sum: NormalizeSum = "none",
        scale_heads: bool = False,
        update_every: Count = 1,
    ):
        super().__init__(grad_source, normalize_sum, scale_heads, update_every)
        self.reduction = reduction

    def solve(self, gram: Tensor, losses: TaskLosses, step: Step) -> Tensor:
        tasks = len(gram)
        order = step.randomness.shared(f"{self.key}/order", tasks).uniform(tasks).argsort(1)
        weights = projected_weights(without_absent(gram, losses.present), order)
        if self.reduction == "mean":
            return weights / losses.present.sum().clamp_min(1)
        return weights
