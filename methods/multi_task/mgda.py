"""MGDA and MGDA-UB. Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS
2018, arXiv 1810.04650; after Désidéri, Comptes Rendus Mathématique 2012."""

from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from methods.multi_task.gram import GradSource
from methods.multi_task.host import heavy, light
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import Every, GramWeighting
from recipes.step import Step

Normalization = Literal["none", "l2", "loss", "loss+"]
ENUMERATED = (
    8  # tasks up to which a device tries all 2^T - 1 supports, so that the host waits for nothing
)
# on the diagonal of G over the mean ‖g_t‖²: decides between weights that give the same vector
RIDGE = 1e-12


@np.errstate(all="ignore")  # what is no number is seen by whoever uses the weights
def min_norm(gram: Tensor, present: Tensor | None = None) -> Tensor:
    """argmin over the simplex of wᵀGw, exact: [T]; the shortest w where gradients are equal. Absent
    tasks get 0, and so do those without gradient, next to which the minimum would be to stand
    still."""
    g = light(gram, wait=len(gram) > ENUMERATED)[0]
    length = g.diagonal()
    there = length >= 1e-12 * length.max()
    if present is not None:
        there = there & light(present, wait=len(gram) > ENUMERATED)[0]
    g = g / length.mean().clip(torch.finfo(gram.dtype).tiny)
    return heavy(by_supports(g, there) if isinstance(g, Tensor) else by_active_set(g, there), gram)


@cache
def supports(tasks: int, device: torch.device) -> Tensor:
    """bool [2^T - 1, T] of all non-empty sets, sent to the device once: it would be waited for in
    every step."""
    return torch.from_numpy((np.arange(1, 2**tasks)[:, None] >> np.arange(tasks)) % 2 == 1).to(
        device
    )


def by_supports(gram: Tensor, there: Tensor) -> Tensor:
    """Solve min wᵀGw, Σ w = 1 on every support, [[G_S, 1], [1ᵀ, 0]] (w, -v) = (0, 1), and keep the
    feasible solution of least value; no numbers where none is. The bordered system has a solution
    also where the gradients of S hold zero in their hull."""
    tasks, inside = len(gram), supports(len(gram), gram.device)
    eye = torch.eye(tasks, dtype=gram.dtype, device=gram.device)
    gram = gram + RIDGE * eye
    system = gram.new_zeros(len(inside), tasks + 1, tasks + 1)
    system[:, :tasks, :tasks] = torch.where(inside[:, :, None] & inside[:, None, :], gram, eye)
    system[:, :tasks, tasks] = system[:, tasks, :tasks] = inside.to(gram.dtype)
    right = gram.new_zeros(len(inside), tasks + 1, 1)
    right[:, tasks] = 1
    w = torch.linalg.solve_ex(system, right)[0][:, :tasks, 0] * inside
    feasible = (w.isfinite() & (w >= -1e-12)).all(1) & ~(inside & ~there).any(1)
    w = torch.where(feasible[:, None], w.clamp_min(0), 0.0)
    w = w / w.sum(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    value = torch.where(feasible, ((w @ gram) * w).sum(1), torch.inf)
    # index_select: a place in brackets would be read by the host
    return w.index_select(0, value.argmin()[None]).squeeze(0) / feasible.any()


def by_active_set(gram: np.ndarray, there: np.ndarray) -> np.ndarray:
    """On the host, for any number of tasks: the minimum of ‖Jᵀx‖² + (1 - Σ x)² over x ≥ 0 points
    where the simplex's does; of two tasks in closed form. No numbers where G has some that are not
    finite."""
    from scipy.optimize import nnls

    w = np.zeros(len(gram))
    small = gram[np.ix_(there, there)].astype(float)
    if not len(small) or not np.isfinite(small).all():
        return np.full(len(gram), np.nan)
    small += RIDGE * np.eye(len(small))
    if len(small) == 2:
        first = (small[1, 1] - small[0, 1]) / (small[0, 0] + small[1, 1] - 2 * small[0, 1])
        x = np.array([first, 1 - first]).clip(0, 1)
    else:
        values, vectors = np.linalg.eigh(small)
        rows = np.sqrt(values.clip(0))[:, None] * vectors.T
        x = nnls(np.vstack([rows, np.ones(len(small))]), np.eye(len(small) + 1)[-1])[0]
    w[there] = x / x.sum()
    return w


def rescaled(gram: Tensor, losses: Tensor, how: Normalization) -> Tensor:
    """G of gradients divided by ‖g_t‖ (`l2`), L_t (`loss`) or L_t ‖g_t‖ (`loss+`)."""
    if how == "none":
        return gram
    tiny = torch.finfo(gram.dtype).tiny
    scale = torch.ones_like(losses) if how == "l2" else losses
    scale = scale if how == "loss" else scale * gram.diagonal().clamp_min(tiny).sqrt()
    scale = scale.clamp_min(tiny**0.25)
    return gram / (scale[:, None] * scale[None, :])


class MGDA(GramWeighting):
    """w = argmin over the simplex of ‖Σ_t w_t g_t‖², the shortest vector in the hull of the tasks'
    gradients: a step along it hurts no task, and where it is zero no direction helps all.

    Σ w = 1, so a step is T times shorter than that of the plain sum: compare at
    `normalize_sum=tasks`. The task with the smallest gradient dominates. Solved exactly: by an
    active set on the host, on a GPU for T ≤ 8 by all supports.

    grad_source: gradients taken: `shared` (MGDA), `rep` (MGDA-UB) or `last_shared`. `rep`,
        gradients of the shared representation, is an upper bound that costs only backwards through
        the heads (batch and features are one vector).
    normalization: gradients divided by: `none` (paper), `l2` ‖g_t‖, `loss` L_t, `loss+` L_t ‖g_t‖
        (authors' code). For the solution alone; w is applied to the unnormalised losses. `loss+` is
        in the authors' runs on CelebA.
    normalize_sum: rescale w to the sum `one` or `tasks` (T); `none` (paper). Here `one` and `none`
        are the same.
    scale_heads: weight the losses of heads by w too (authors' code); false (paper's algorithm).
    update_every: optimizer steps between two solutions, at least 1; 1 (paper).
    """

    def __init__(
        self,
        grad_source: GradSource = "shared",
        normalization: Normalization = "none",
        normalize_sum: NormalizeSum = "none",
        scale_heads: bool = False,
        update_every: Every = 1,
    ):
        self.grad_source, self.normalization, self.normalize_sum = (
            grad_source,
            normalization,
            normalize_sum,
        )
        self.scale_heads, self.update_every = scale_heads, update_every

    def solve(self, gram: Tensor, found: TaskLosses, step: Step) -> Tensor:
        if self.normalization != "none":
            gram = rescaled(gram, found.whole().to(gram), self.normalization)
        return min_norm(gram, found.present)
