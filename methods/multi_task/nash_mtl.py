"""Nash-MTL. Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, Multi-Task Learning as
a Bargaining Game, ICML 2022, arXiv 2202.01017."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from methods.multi_task.gram import GradSource
from methods.multi_task.host import heavy, light, solved
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import Every, GramWeighting, without_absent
from recipes.step import Step

ITERATIONS = 25  # on a device always as many, so that it never waits for the host
DONE = 1e-8  # a decrement behind which a whole step leaves an error of its square: nothing


@np.errstate(all="ignore")  # what is no number is seen by whoever uses the weights
def bargain(gram: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """a > 0 with G a = 1/a elementwise, [T]: the minimum of ½ aᵀGa - Σ ln a, by Newton's method.

    In b = a ‖g‖ the matrix is that of cosines and the scale of a task is gone. The function is
    self-concordant: a step damped by 1/(1 + λ), λ the Newton decrement, stays positive and always
    descends; near the minimum it is whole.
    """
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    g, eye, b = light(gram, eye, torch.ones_like(gram[0]))
    length = g.diagonal().clip(torch.finfo(gram.dtype).tiny) ** 0.5
    cosines = g / (length[:, None] * length[None, :])
    for _ in range(iterations):
        slope = cosines @ b - 1 / b
        move = solved(cosines + eye * b**-2, -slope)
        decrement = (-slope * move).sum().clip(0) ** 0.5
        b = b + move / (1 + decrement * (decrement >= 0.25))
        if isinstance(decrement, float) and decrement < DONE:
            break
    return heavy(b / length, gram)


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
        max_norm: Annotated[float, Field(ge=0)] = 1.0,
        normalize_sum: NormalizeSum = "none",
        scale_heads: bool = False,
        update_every: Every = 1,
    ):
        self.grad_source, self.max_norm, self.normalize_sum = grad_source, max_norm, normalize_sum
        self.scale_heads, self.update_every = scale_heads, update_every

    def solve(self, gram: Tensor, found: TaskLosses, step: Step) -> Tensor:
        weights = torch.where(found.present, bargain(without_absent(gram, found.present)), 0)
        if not self.max_norm:
            return weights
        norm = (weights @ gram @ weights).clamp_min(0).sqrt()
        return weights * (self.max_norm / norm.clamp_min(self.max_norm))
