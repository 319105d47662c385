"""The target pipeline: from predictions on unlabeled samples to training targets.

    source → align → sharpen → harden → mask → loss

Each slot is one pure function, without gradient and in float32; a method chooses one function per
slot. The source is given as scores [N, C], anything whose softmax is q: logits, or `scores_of(q)`
for probabilities from a table or an average. Losses on soft targets are in `consistency.py`; losses
on hard targets are the step's criterion.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.step import PseudoLabels

Align = Callable[[Tensor], Tensor]  # q [N, C] -> q [N, C]
# max_c q (aligned, not sharpened) and its class, [N] each -> [N] in [0, 1]
Mask = Callable[[Tensor, Tensor], Tensor]
TINY = 1e-12


class PseudoTargets(NamedTuple):
    """value: targets of the loss, soft [N, C] or hard [N]. pseudo: q after alignment and before
    sharpening, its most probable classes, and the mask."""

    value: Tensor
    pseudo: PseudoLabels


@torch.no_grad()
def make_targets(
    scores: Tensor,
    *,
    align: Align | None = None,
    temperature: float = 1.0,
    harden: bool = False,
    mask: Mask | None = None,
) -> PseudoTargets:
    """Run the pipeline on scores [N, C]. An empty slot changes nothing; without a mask every sample
    is used."""
    q = soft_targets(scores)
    if align is not None:
        q = align(q)
        scores = scores_of(q)
    best, label = q.max(1)
    weights = torch.ones_like(best) if mask is None else mask(best, label)
    value = label if harden else sharpen(scores, temperature)
    return PseudoTargets(value, PseudoLabels(q, label, weights, best))


# -- source ----------------------------------------------------------------------------------------
@torch.no_grad()
def soft_targets(scores: Tensor) -> Tensor:
    """q = softmax(z), [N, C], without gradient."""
    return torch.softmax(scores.float(), dim=1)


@torch.no_grad()
def scores_of(probabilities: Tensor) -> Tensor:
    """log max(q, 1e-12): the scores of given probabilities."""
    return probabilities.float().clamp_min(TINY).log()


@torch.no_grad()
def mean_prediction(views: Sequence[Tensor]) -> Tensor:
    """Scores of (1/K) Σ_k softmax(z_k), the mean of K predictions, from logits [N, C] each."""
    return scores_of(torch.stack([soft_targets(z) for z in views]).mean(0))


# -- align -----------------------------------------------------------------------------------------
@torch.no_grad()
def aligned(probabilities: Tensor, wanted: Tensor, seen: Tensor) -> Tensor:
    """q ← normalise(q · (wanted + 1e-6) / (seen + 1e-6)): distribution alignment (Berthelot et al.,
    ReMixMatch, 2020).

    wanted, seen: [C], the class distribution that predictions should have, and their distribution
        in earlier steps.
    """
    scaled = probabilities * (wanted + 1e-6) / (seen + 1e-6)
    return scaled / scaled.sum(1, keepdim=True)


# -- sharpen ---------------------------------------------------------------------------------------
@torch.no_grad()
def sharpen(scores: Tensor, temperature: float) -> Tensor:
    """q_c^(1/T) / Σ q^(1/T) with q = softmax(z), computed as softmax(z / T); T = 1 leaves q, T → 0
    tends to one-hot."""
    return torch.softmax(scores.float() / temperature, dim=1)


# -- mask ------------------------------------------------------------------------------------------
@torch.no_grad()
def confident(
    best: Tensor, label: Tensor, threshold: float | Tensor, strict: bool = False
) -> Tensor:
    """m = [max_c q_c ≥ τ], [N] bool; with `strict` m = [max_c q_c > τ]. Nothing passes τ > 1.

    best, label: [N], max_c q_c and its class. threshold: one number, or [C], a threshold per class.
    """
    limit = threshold[label] if isinstance(threshold, Tensor) else threshold
    return best > limit if strict else best >= limit
