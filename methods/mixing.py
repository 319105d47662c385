"""Mixing of samples on the embedded input and of their targets: the pieces that all mixers
share."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recipes.contract import Context, Method
from recipes.step import Embedded, Input, Step, Targets
from recipes.step.criterion import one_hot


def blend(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """λ a + (1-λ) b with one λ a row: share [N] against tensors [N, ...]."""
    weight = share.view(-1, *([1] * (a.ndim - 1))).to(a.dtype)
    return weight * a + (1 - weight) * b


def blend_embedded(embedded: Embedded, partner: Tensor, share: Tensor) -> Embedded:
    """Rows mixed with their partners' [N]. Texts mix as token embeddings, under the union of both
    masks."""
    x, mask = embedded.x, embedded.mask
    return Embedded(blend(x, x[partner], share), None if mask is None else mask | mask[partner])


def dense_targets(targets: Mapping[str, Tensor], context: Context) -> Targets:
    """[N, C] float32 targets of every task."""
    return {task: one_hot(target, context.tasks[task].outputs) for task, target in targets.items()}


def mix_targets(entry: Input, partner: Tensor, share: Tensor, context: Context) -> Targets:
    """Dense targets λ t_i + (1-λ) t_partner(i) of every task."""
    dense = dense_targets(entry.targets, context)
    return {task: blend(t, t[partner], share) for task, t in dense.items()}


def has_turn(method: Method, step: Step, context: Context) -> bool:
    """Whether this batch is the method's, among the mixers of the run, in proportion to their
    `turns`: one number per batch, as in timm's Mixup. Alone, every batch is."""
    mixers: list[Any] = context.taking_turns("mixer")
    if len(mixers) < 2:
        return True
    place = step.randomness.on_host("mixer/turn") * sum(mixer.turns for mixer in mixers)
    for mixer in mixers:
        place -= mixer.turns
        if place < 0:
            return mixer.key == method.key
    return mixers[-1].key == method.key  # rounding


def draw_mixing(
    step: Step, key: str, rows: int, alpha: float, per_sample: bool
) -> tuple[Tensor, Tensor]:
    """λ ~ Beta(α, α), [N] (one for the whole global batch, or one a sample), and a partner for
    every row.

    Partners are drawn among the rows of this rank. Equal calls in one step give equal numbers.
    """
    draw = (
        step.randomness.draw(f"{key}/share", rows)
        if per_sample
        else step.randomness.shared(f"{key}/share")
    )
    share = draw.beta(alpha, alpha).expand(rows)
    partner = step.randomness.draw(f"{key}/partner", rows).uniform().argsort()
    return share, partner


def at_least_half(share: Tensor) -> Tensor:
    """λ' = max(λ, 1-λ): the first sample stays the dominant one."""
    return torch.maximum(share, 1 - share)
