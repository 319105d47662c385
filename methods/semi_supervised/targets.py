"""The target pipeline: from what the model believes of the unlabeled samples to what it shall
learn.

    source → align → sharpen → harden → mask → loss

Each slot holds one piece, a pure function without gradient and in float32; a method is a choice of
pieces. The source is given as scores [N, C], anything whose softmax is q: logits, or `scores_of(q)`
for probabilities from a table or an average. The losses are in `consistency.py`; hard ones come
from the criterion of the step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.step import PseudoLabels

Align = Callable[[Tensor], Tensor]  # q [N, C] -> q [N, C]
Mask = Callable[
    [Tensor, Tensor], Tensor
]  # max_c q, aligned and not sharpened, and its class [N] -> [N] in [0, 1]
TINY = 1e-12


class Targets(NamedTuple):
    """value: what the loss shall meet, soft [N, C] or hard [N]. pseudo: q after alignment and
    before sharpening, its best classes, and the mask."""

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
) -> Targets:
    """Run the pipeline on scores [N, C]; an empty slot changes nothing, no mask keeps every
    sample."""
    q = soft_targets(scores)
    if align is not None:
        q = align(q)
        scores = scores_of(q)
    best, label = q.max(1)
    kept = torch.ones_like(best) if mask is None else mask(best, label)
    return Targets(
        label if harden else sharpen(scores, temperature), PseudoLabels(q, label, kept, best)
    )


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

    wanted, seen: [C], the class distribution that predictions should have, and the one they had in
        earlier steps.
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
    """m = [max_c q_c ≥ τ], [N] bool; ties are kept unless `strict`, τ > 1 keeps nothing.

    best, label: [N], max_c q_c and its class. threshold: one number, or [C], of which that of the
        best class counts.
    """
    limit = threshold[label] if isinstance(threshold, Tensor) else threshold
    return best > limit if strict else best >= limit
