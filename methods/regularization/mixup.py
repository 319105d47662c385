"""Mixup. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recipes.criterion import one_hot
from recipes.method import Declaration, Method
from recipes.recipe import Recipe
from recipes.step import Embedded, Input, Step


def blend(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """λ a + (1-λ) b with one λ a row: share [N] against tensors [N, ...]."""
    weight = share.view(-1, *([1] * (a.ndim - 1))).to(a.dtype)
    return weight * a + (1 - weight) * b


def mix_targets(entry: Input, partner: Tensor, share: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Dense targets λ t_i + (1-λ) t_partner(i) of every task."""
    dense = {task: one_hot(target, recipe.tasks[task].outputs) for task, target in entry.targets.items()}
    return {task: blend(t, t[partner], share) for task, t in dense.items()}


def draw_mixing(step: Step, key: str, rows: int, alpha: float, per_sample: bool) -> tuple[Tensor, Tensor]:
    """λ ~ Beta(α, α), [N] (one for the whole global batch, or one a sample), and a partner for every row.

    Partners are drawn among the rows of this rank.
    """
    draw = step.randomness.draw(f"{key}/share", rows) if per_sample else step.randomness.shared(f"{key}/share")
    share = draw.beta(alpha, alpha).expand(rows)
    partner = step.randomness.draw(f"{key}/partner", rows).uniform().argsort()
    return share, partner


class Mixup(Method):
    """x' = λ x_i + (1-λ) x_j on the embedded input, t' = λ t_i + (1-λ) t_j, λ ~ Beta(α, α).

    Pictures mix as pixels, texts as token embeddings (the padding mask is the union of both). alpha α: 1 (CIFAR;
    .2 for ImageNet). per_sample: one λ a sample instead of one a batch (paper). at_least_half: λ ← max(λ, 1-λ), which
    keeps the first sample dominant. On several ranks partners come from the same rank.
    """

    declaration = Declaration(slots=("mixer",), tags=("mixes_inputs", "soft_targets"), exact_on_ranks=False)

    def __init__(
        self,
        alpha: Annotated[float, Field(gt=0)] = 1.0,
        per_sample: bool = False,
        at_least_half: bool = False,
    ):
        self.alpha, self.per_sample, self.at_least_half = alpha, per_sample, at_least_half

    def prepare(self, step: Step, recipe: Recipe) -> None:
        entry = step.inputs["labeled"]
        share, partner = draw_mixing(step, self.key, entry.size, self.alpha, self.per_sample)
        if self.at_least_half:
            share = torch.maximum(share, 1 - share)
        x, mask = entry.embedded
        mixed = Embedded(blend(x, x[partner], share), None if mask is None else mask | mask[partner])
        step.change("labeled", embedded=mixed, targets=mix_targets(entry, partner, share, recipe))
