"""FreeLB. Zhu et al., FreeLB: Enhanced Adversarial Training for Natural Language Understanding,
ICLR 2020, arXiv 1909.11764."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from foundation.randomness import RowNumbers
from foundation.types import Count
from methods.adversarial.attacks.threat import Norm, Threat, per_sample
from methods.adversarial.perturbation import LAST, PRECISIONS, add_delta
from methods.directions import unit
from methods.perturbed_weights import gradients, parameters_with_gradient
from recipes.contract import Closure, Context, Declaration, Method
from recipes.step import Step


def initial_delta(x: Tensor, threat: Threat, magnitude: float, rows: RowNumbers) -> Tensor:
    """δ₀ = m U(-1, 1) / √(number of a sample's entries) (linf: m U(-1, 1)), zero on padding."""
    delta = threat.masked(magnitude * rows.uniform(*x.shape[1:], low=-1.0))
    if threat.norm == "linf":
        return delta
    entries = threat.masked(torch.ones_like(x)).flatten(1).sum(1)
    return delta / per_sample(entries.clamp_min(1).sqrt(), delta)


def ascend(x: Tensor, delta: Tensor, gradient: Tensor, threat: Threat, step_size: float) -> Tensor:
    """δ ← Proj(δ + a g / ‖g‖), by sample; linf: g / max |g|, not its sign."""
    gradient = threat.masked(torch.nan_to_num(gradient.float(), nan=0.0, posinf=0.0, neginf=0.0))
    direction = unit(gradient, 2.0 if threat.norm == "l2" else torch.inf)
    raised = delta + step_size * direction
    return threat.project(x, x + raised) - x


@dataclass
class Perturbation:
    """The attack on one batch. delta: δ_t of this pass, a leaf that collects its gradient."""

    x: Tensor
    threat: Threat
    delta: Tensor


class FreeLB(Method):
    """g_θ = (1/K) Σ_{t<K} ∇_θ L(e + δ_t), δ_{t+1} = Proj(δ_t + a g_t / ‖g_t‖): the backward of
    every pass gives the gradients of the parameters, which are averaged, and that of δ, which
    ascends. One optimizer step costs K forwards and backwards.

    e are the word embeddings of a text (for images, pixels clipped to [0, 1]); norms are of one
    sample over all its words. The K passes have the same views, draws and dropout masks, as in the
    paper; batch-norm statistics and metrics count the first. Other loss terms are the same in every
    pass.

    steps: passes K over a batch, at least 1; 3 (paper's range: 2 to 5).
    step_size: length a of a step of δ, at least 0; 0.1 (paper on SST-2 and RTE).
    start: magnitude m of the random start of δ, at least 0; 0 (paper on RTE): the first pass is
        the clean sample.
    max_norm: radius that δ is projected to, at least 0; 0: no projection (paper on most tasks).
    norm: norm of δ and its steps over a sample: `l2` (paper) or `linf`.
    """

    neutral = {"step_size": 0}
    declaration = Declaration(
        slots=("attack", "two_passes"),
        tags=("attacks_labeled", "repeats_batches"),
        after=LAST,
        accumulation=False,
        precisions=PRECISIONS,
        lower_on_collapse=("step_size",),
    )

    def __init__(
        self,
        steps: Count = 3,
        step_size: Annotated[float, Field(ge=0)] = 0.1,
        start: Annotated[float, Field(ge=0)] = 0.0,
        max_norm: Annotated[float, Field(ge=0)] = 0.0,
        norm: Norm = "l2",
    ):
        self.steps = steps
        self.step_size = step_size
        self.start = start
        self.norm = norm
        self.radius = max_norm or float("inf")

    def prepare(self, step: Step, context: Context) -> None:
        entry = step.inputs["labeled"]
        if not step.replay:
            x = entry.embedded.x.detach()
            threat = Threat.around(entry.embedded, self.norm, self.radius)
            rows = step.randomness.draw(f"{self.key}/start", entry.size)
            start = initial_delta(x, threat, self.start, rows)
            delta = threat.project(x, x + start) - x
            step.scratch[self.key] = Perturbation(x, threat, delta)
        delta = step.scratch[self.key].delta.requires_grad_()
        step.change("labeled", embedded=add_delta(entry.embedded, delta))

    def wrap_step(self, closure: Closure, optimizer: Optimizer, context: Context) -> Any:
        loss = closure()
        p: Perturbation = context.current_step.scratch[self.key]
        weights = parameters_with_gradient(optimizer)
        for _ in range(self.steps - 1):
            # the closure zeroes gradients, so the sum of the earlier passes is added back
            sums = [gradient.clone() for gradient in gradients(weights)]
            with torch.no_grad():
                gradient = torch.zeros_like(p.delta) if p.delta.grad is None else p.delta.grad
                p.delta = ascend(p.x, p.delta.detach(), gradient, p.threat, self.step_size)
            with context.replay():
                closure()
            torch._foreach_add_(gradients(weights), sums)
        torch._foreach_div_(gradients(weights), float(self.steps))
        return loss
