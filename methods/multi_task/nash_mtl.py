"""Nash-MTL. Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, Multi-Task Learning as a Bargaining Game,
ICML 2022, arXiv 2202.01017."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from methods.multi_task.gram import GradSource
from methods.multi_task.losses import NormalizeSum, TaskLosses
from methods.multi_task.weighting import Every, GramWeighting, without_absent
from recipes.step import Step

ITERATIONS = 25  # a fixed number, so that the device never waits for the host


def bargain(gram: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """a > 0 with G a = 1/a elementwise, [T]: the minimum of ½ aᵀGa - Σ ln a, by Newton's method.

    In b = a ‖g‖ the matrix is that of cosines and the scale of a task is gone. The function is self-concordant: a step
    damped by 1/(1 + λ), λ the Newton decrement, stays positive and always descends; near the minimum it is whole.
    """
    length = gram.diagonal().clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    cosines = gram / (length[:, None] * length[None, :])
    b = torch.ones_like(length)
    for _ in range(iterations):
        slope = cosines @ b - 1 / b
        move = torch.linalg.solve_ex(cosines + torch.diag(b.pow(-2)), -slope)[0]
        decrement = (-slope * move).sum().clamp_min(0).sqrt()
        b = b + move * torch.where(decrement < 0.25, torch.ones_like(decrement), 1 / (1 + decrement))
    return b / length


class NashMTL(GramWeighting):
    """G a = 1/a, w = a: the bargaining solution, in which every task gains equally, a_t ⟨g_t, Σ_s a_s g_s⟩ = 1.

    The update does not depend on the scale of any task's loss. Solved by damped Newton iterations on the device (the
    authors: a convex-concave procedure with a conic solver), on the exact matrix (the authors divide it by its norm, so
    their update has another length before it is clipped).

    grad_source: `shared` (paper), `last_shared`, or `rep`, gradients of the shared representation at the cost of
    backwards through heads. max_norm: longest update of what is shared, ‖Σ w_t g_t‖ (1, as published; 0 for none, and
    then it is √T). normalize_sum: `none`, `one`, `tasks`: rescale w to this sum, after max_norm. scale_heads: heads see
    w_t too, as in the authors' code; w is about 1/‖g‖, so with large gradients heads starve. update_every: steps
    between two solutions; the paper loses little with several.
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
