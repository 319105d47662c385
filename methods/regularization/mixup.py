"""Mixup. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, arXiv 1710.09412."""

from typing import Annotated

from pydantic import Field

from foundation.types import Scale
from methods.mixing import at_least_half, blend_embedded, draw_mixing, has_turn, mix_targets
from recipes.contract import Context, Declaration, Method
from recipes.step import Step


class Mixup(Method):
    """x' = λ x_i + (1-λ) x_j on the embedded input, t' = λ t_i + (1-λ) t_j, λ ~ Beta(α, α).

    Images are mixed as pixels, texts as token embeddings (the padding mask is the union of both).
    With several ranks, partners come from the same rank.

    alpha: α of λ ~ Beta(α, α), above 0; 1 (paper on CIFAR; ImageNet: 0.2).
    per_sample: one λ per sample; false: one for the batch (paper).
    at_least_half: λ ← max(λ, 1-λ), so that the first sample dominates; false (paper).
    turns: with cutmix, batches of this one in proportion to the other's, above 0; 1: as many.
    """

    declaration = Declaration(
        slots=("mixer",),
        turns=("mixer",),
        tags=("mixes_inputs", "soft_targets"),
        ddp_exact=False,
        ddp_difference="samples mix with partners on their own rank",
    )

    def __init__(
        self,
        alpha: Annotated[float, Field(gt=0)] = 1.0,
        per_sample: bool = False,
        at_least_half: bool = False,
        turns: Scale = 1.0,
    ):
        self.alpha = alpha
        self.per_sample = per_sample
        self.at_least_half = at_least_half
        self.turns = turns

    def prepare(self, step: Step, context: Context) -> None:
        if not has_turn(self, step, context):
            return
        entry = step.inputs["labeled"]
        share, partner = draw_mixing(step, self.key, entry.size, self.alpha, self.per_sample)
        if self.at_least_half:
            share = at_least_half(share)
        mixed = blend_embedded(entry.embedded, partner, share)
        step.change("labeled", embedded=mixed, targets=mix_targets(entry, partner, share, context))
