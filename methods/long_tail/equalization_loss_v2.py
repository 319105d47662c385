"""Equalization loss v2. Tan et al., Equalization Loss v2: A New Gradient Balance Approach for
Long-Tailed Object Detection, CVPR 2021, arXiv 2012.08548."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.distributed import global_sum
from foundation.types import Weight
from methods.long_tail.sigmoid import binary_costs, start_at, summed
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import Role, label_mass, one_hot

Start = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(gt=0, le=1)]
INDEPENDENT = (
    "a shift by the class prior is undone by a softmax at prediction, not by independent sigmoids; "
    "leave one out"
)


def gradient_weights(
    positive: Tensor, negative: Tensor, gamma: float, mu: float, alpha: float
) -> tuple[Tensor, Tensor]:
    """u = 1 + α(1 - f(r)) of positives and v = f(r) of negatives, [C], f(r) = s(γ(r - μ)), r = G⁺ /
    G⁻. Both are 1 before anything has been counted. positive, negative: G⁺, G⁻, [C]."""
    f = torch.sigmoid(gamma * (positive / (negative + 1e-10) - mu))
    started = (negative.sum() + positive.sum()) > 0
    return torch.where(started, 1 + alpha * (1 - f), 1.0), torch.where(started, f, 1.0)


def gradient_sums(
    logits: Tensor, target: Tensor, weights: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Σ_i u t (1 - s) and Σ_i v (m - t) s, [C]: the absolute gradients of the weighted loss on the
    logits, as positives and as negatives. m: the mass of a sample's target, 0 where it has none."""
    u, v = weights
    s = torch.sigmoid(logits.detach().float())
    t = one_hot(target, logits.shape[1]).float()
    rest = label_mass(target).unsqueeze(1) - t
    return u * (t * (1 - s)).sum(0), v * (rest * s).sum(0)


class AccumulatedGradients(nn.Module):
    """G⁺ and G⁻ of one task's classes, [C], over all ranks and the whole run."""

    positive: Tensor
    negative: Tensor

    def __init__(self, classes: int):
        super().__init__()
        self.register_buffer("positive", torch.zeros(classes))
        self.register_buffer("negative", torch.zeros(classes))

    @torch.no_grad()
    def add(self, positive: Tensor, negative: Tensor, decay: float) -> None:
        both = global_sum(torch.stack([positive, negative]))
        self.positive.mul_(decay).add_(both[0])
        self.negative.mul_(decay).add_(both[1])


class EqualizationLossV2(Method):
    """L = (1/N) Σ_i Σ_c [u_c t_ic (-log s_ic) + v_c (1 - t_ic) (-log(1 - s_ic))]: C binary losses,
    in which a class whose positive gradients are fewer than its negative ones gets larger positive
    and smaller negative weights.

    v_c = f(G⁺_c/G⁻_c), u_c = 1 + α(1 - v_c), f(r) = s(γ(r - μ)); G⁺, G⁻ are the sums of absolute
    weighted gradients of the logits over all batches before. For many classes and one-vs-rest
    classifiers; it needs some hundred steps until the sums mean something, and no class counts. The
    first batch has weights 1. The sums are equal on all ranks (in the reference code they are lost
    on resume) and are over the run: what happens early weighs most. Prediction: argmax of the
    logits. Mixed targets: Σ_c t_c ℓ_c. Losses on pseudo-labels do not change.

    gamma: slope γ of f, above 0; 12 (paper).
    mu: ratio μ at which f is 1/2; 0.8 (paper).
    alpha: largest addition α to the weight of a positive, at least 0; 4 (paper).
    start: probability with which every class starts, by the heads' biases, in (0, 1); 0.01 (ours;
        detection: 0.001). From 1/2 the first sums would only be those of C - 1 negatives a sample.
    decay: factor of the sums at every batch, in (0, 1]; 1: none (paper).
    """

    declaration = Declaration(
        slots=("prior_correction", "class_losses"),
        refuses={"adjusts_logits": INDEPENDENT},
        sharded=True,
    )

    def __init__(
        self,
        gamma: Annotated[float, Field(gt=0)] = 12.0,
        mu: float = 0.8,
        alpha: Weight = 4.0,
        start: Start = 0.01,
        decay: Decay = 1.0,
    ):
        self.gamma = gamma
        self.mu = mu
        self.alpha = alpha
        self.start = start
        self.decay = decay

    def build(self, context: Context) -> None:
        start_at(self.start, context)
        sums = {name: AccumulatedGradients(task.outputs) for name, task in context.tasks.items()}
        context.method_modules[self.key] = nn.ModuleDict(sums)

    def weights(self, task: str, context: Context) -> tuple[Tensor, Tensor]:
        """u and v [C] from the batches before this one."""
        sums = context.method_modules[self.key][task]
        return gradient_weights(sums.positive, sums.negative, self.gamma, self.mu, self.alpha)

    def class_losses(
        self, step: Step, logits: Tensor, task: str, role: Role, context: Context
    ) -> Tensor | None:
        if role != "labeled":
            return None
        u, v = self.weights(task, context)
        positive, negative = binary_costs(logits)
        return summed(u * positive, v * negative)

    def after_batch(self, step: Step, context: Context) -> None:
        for task in context.tasks:
            weights = self.weights(task, context)
            target = step.inputs["labeled"].targets[task]
            sums = gradient_sums(step.logits("labeled", task), target, weights)
            context.method_modules[self.key][task].add(*sums, self.decay)
