"""Nash-MTL. Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, Multi-Task Learning as
a Bargaining Game, ICML 2022, arXiv 2202.01017."""

import numpy as np
import torch
from torch import Tensor

from foundation.types import Count, Weight
from methods.multi_task.gram import GradSource
from methods.multi_task.host import like_tensor, solve, to_numpy_on_cpu
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import GramWeighting, without_absent
from recipes.step import Step

ITERATIONS = 25  # on a device always as many, so that it never waits for the host
# a Newton decrement after which a whole step leaves an error of its square: below rounding
CONVERGED = 1e-8


@np.errstate(all="ignore")  # NaN in G gives NaN in w, which `Weighting` does not take
def bargain(gram: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """a > 0 with G a = 1/a elementwise, [T]: the minimum of ½ aᵀGa - Σ ln a, by Newton's method.

    In b = a ‖g‖ the matrix is that of cosines and the scale of a task is gone. The function is
    self-concordant: a step damped by 1/(1 + λ), λ the Newton decrement, stays positive and always
    descends; near the minimum it is whole. gram: G [T, T].
    """
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    g, identity, b = to_numpy_on_cpu(gram, identity, torch.ones_like(gram[0]))
    norms = g.diagonal().clip(torch.finfo(gram.dtype).tiny) ** 0.5
    cosines = g / (norms[:, None] * norms[None, :])
    for _ in range(iterations):
        gradient = cosines @ b - 1 / b
        hessian = cosines + identity * b**-2
        newton_step = solve(hessian, -gradient)
        decrement = (-gradient * newton_step).sum().clip(0) ** 0.5
        damped = decrement >= 0.25
        b = b + newton_step / (1 + decrement * damped)
        if isinstance(decrement, float) and decrement < CONVERGED:  # a tensor is not waited for
            break
    return like_tensor(b / norms, gram)


class NashMTL(GramWeighting):
    """G a = 1/a, w = a: the bargaining solution, in which every task gains equally, a_t ⟨g_t, Σ_s
    a_s g_s⟩ = 1.

    The update does not depend on the scale of any task's loss. Solved by damped Newton iterations
    on the device (the authors: a convex-concave procedure with a conic solver), on the exact matrix
    (the authors divide it by its norm, so their update has another length before it is clipped).

    grad_source: gradients taken: `shared` (paper), `last_shared` or `rep`, of the shared
        representation. `rep` costs backwards through heads alone.
    max_norm: longest update of what is shared, ‖Σ w_t g_t‖, at least 0; 1 (paper); 0: no clipping.
        Without clipping it is √T.
    normalize_sum: rescale w, after max_norm, to the sum `one` or `tasks` (T); `none` (paper).
    scale_heads: weight the losses of heads by w too (authors' code); false (ours). w is about
        1/‖g‖, so with large gradients heads starve.
    update_every: optimizer steps between two solutions, at least 1; 1; the paper loses little with
        several.
    """

    def __init__(
        self,
        grad_source: GradSource = "shared",
        max_norm: Weight = 1.0,
        normalize_sum: NormalizeSum = "none",
        scale_heads: bool = False,
        update_every: Count = 1,
    ):
        super().__init__(grad_source, normalize_sum, scale_heads, update_every)
        self.max_norm = max_norm

    def solve(self, gram: Tensor, losses: TaskLosses, step: Step) -> Tensor:
        weights = bargain(without_absent(gram, losses.present))
        weights = torch.where(losses.present, weights, 0)
        if not self.max_norm:
            return weights
        norm = (weights @ gram @ weights).clamp_min(0).sqrt()  # ‖Σ_t w_t g_t‖
        return weights * (self.max_norm / norm.clamp_min(self.max_norm))
