"""MGDA and MGDA-UB. Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS
2018, arXiv 1810.04650; after Désidéri, Comptes Rendus Mathématique 2012."""

from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foundation.types import Count
from methods.multi_task.gram import GradSource
from methods.multi_task.host import like_tensor, to_numpy_on_cpu
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import GramWeighting
from recipes.step import Step

Normalization = Literal["none", "l2", "loss", "loss+"]
# tasks up to which a device tries all 2^T - 1 supports, so that the host waits for nothing
ENUMERATED = 8
# on the diagonal of G over the mean ‖g_t‖²: decides between weights that give the same vector
RIDGE = 1e-12
# a gradient whose ‖g_t‖² is below this share of the longest one's counts as none
NO_GRADIENT = 1e-12


@np.errstate(all="ignore")  # NaN in G gives NaN in w, which `Weighting` does not take
def min_norm(gram: Tensor, present: Tensor | None = None) -> Tensor:
    """argmin over the simplex of wᵀGw, [T], exact; the shortest w where gradients are equal.

    Absent tasks get 0, and so do those without gradient, next to which the minimum would be to
    stand still. gram: G [T, T]. present: bool [T], None for all.
    """
    wait = len(gram) > ENUMERATED
    (g,) = to_numpy_on_cpu(gram, wait=wait)
    squared_norms = g.diagonal()
    usable = squared_norms >= NO_GRADIENT * squared_norms.max()
    if present is not None:
        usable = usable & to_numpy_on_cpu(present, wait=wait)[0]
    g = g / squared_norms.mean().clip(torch.finfo(gram.dtype).tiny)
    weights = by_supports(g, usable) if isinstance(g, Tensor) else by_active_set(g, usable)
    return like_tensor(weights, gram)


@cache
def supports(tasks: int, device: torch.device) -> Tensor:
    """All non-empty sets of tasks, bool [2^T - 1, T]; kept on the device, since to send them in
    every step would make the host wait."""
    sets = (np.arange(1, 2**tasks)[:, None] >> np.arange(tasks)) % 2 == 1
    return torch.from_numpy(sets).to(device)


def by_supports(gram: Tensor, usable: Tensor) -> Tensor:
    """`min_norm` without a look at the numbers: min wᵀGw, Σ w = 1 on every support S, from
    [[G_S, 1], [1ᵀ, 0]] (w, -v) = (0, 1), and of these the feasible one of least value.

    The bordered system has a solution also where the gradients of S hold zero in their hull. NaN
    where no solution is feasible. gram: [T, T], usable: bool [T].
    """
    tasks = len(gram)
    inside = supports(tasks, gram.device)
    identity = torch.eye(tasks, dtype=gram.dtype, device=gram.device)
    gram = gram + RIDGE * identity
    system = gram.new_zeros(len(inside), tasks + 1, tasks + 1)
    pairs_inside = inside[:, :, None] & inside[:, None, :]
    system[:, :tasks, :tasks] = torch.where(pairs_inside, gram, identity)
    system[:, :tasks, tasks] = system[:, tasks, :tasks] = inside.to(gram.dtype)
    right = gram.new_zeros(len(inside), tasks + 1, 1)
    right[:, tasks] = 1
    w = torch.linalg.solve_ex(system, right)[0][:, :tasks, 0] * inside

    on_simplex = (w.isfinite() & (w >= -1e-12)).all(1)
    feasible = on_simplex & ~(inside & ~usable).any(1)
    w = torch.where(feasible[:, None], w.clamp_min(0), 0.0)
    w = w / w.sum(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    value = torch.where(feasible, ((w @ gram) * w).sum(1), torch.inf)
    # index_select: the host would read an index in brackets
    best = w.index_select(0, value.argmin()[None]).squeeze(0)
    return best / feasible.any()


def by_active_set(gram: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """`min_norm` on the host for any number of tasks: the minimum of ‖Jᵀx‖² + (1 - Σ x)² over
    x ≥ 0 is a multiple of that on the simplex; of two tasks in closed form.

    NaN where G has entries that are not finite. gram: [T, T], usable: bool [T].
    """
    from scipy.optimize import nnls

    w = np.zeros(len(gram))
    small = gram[np.ix_(usable, usable)].astype(float)
    if not len(small) or not np.isfinite(small).all():
        return np.full(len(gram), np.nan)
    small += RIDGE * np.eye(len(small))
    if len(small) == 2:
        first = (small[1, 1] - small[0, 1]) / (small[0, 0] + small[1, 1] - 2 * small[0, 1])
        x = np.array([first, 1 - first]).clip(0, 1)
    else:
        # any J with J Jᵀ = G will do: the root of G
        values, vectors = np.linalg.eigh(small)
        root = np.sqrt(values.clip(0))[:, None] * vectors.T
        x = nnls(np.vstack([root, np.ones(len(small))]), np.eye(len(small) + 1)[-1])[0]
    w[usable] = x / x.sum()
    return w


def rescaled(gram: Tensor, losses: Tensor, how: Normalization) -> Tensor:
    """G of the gradients divided by ‖g_t‖ (`l2`), L_t (`loss`) or L_t ‖g_t‖ (`loss+`), [T, T]."""
    if how == "none":
        return gram
    tiny = torch.finfo(gram.dtype).tiny
    scale = torch.ones_like(losses) if how == "l2" else losses
    if how != "loss":
        scale = scale * gram.diagonal().clamp_min(tiny).sqrt()
    # the product of two scales must not become 0
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
        update_every: Count = 1,
    ):
        super().__init__(grad_source, normalize_sum, scale_heads, update_every)
        self.normalization = normalization

    def solve(self, gram: Tensor, losses: TaskLosses, step: Step) -> Tensor:
        if self.normalization != "none":
            gram = rescaled(gram, losses.whole().to(gram), self.normalization)
        return min_norm(gram, losses.present)
