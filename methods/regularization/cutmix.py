"""CutMix. Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, ICCV 2019, arXiv
1905.04899."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Scale
from methods.mixing import draw_mixing, has_turn, mix_targets
from recipes.contract import Context, Declaration, Method
from recipes.step import Embedded, Step


def box_masks(share: Tensor, center: Tensor, height: int, width: int) -> Tensor:
    """[N, 1, H, W], True inside a box with sides H√(1-λ), W√(1-λ) around a center, clipped at the
    borders.

    Sides are rounded down to whole pixels, as in the authors' code.

    share: λ [N]. center: [N, 2] uniform in [0, 1).
    """
    cut = torch.sqrt(1.0 - share)
    rows = torch.arange(height, device=share.device)
    columns = torch.arange(width, device=share.device)

    def inside(axis: Tensor, size: int, middle: Tensor) -> Tensor:
        half = torch.floor(cut * size).div(2, rounding_mode="floor")
        at = torch.floor(middle * size)
        low = (at - half).clamp(0, size)
        high = (at + half).clamp(0, size)
        return (axis >= low[:, None]) & (axis < high[:, None])

    vertical = inside(rows, height, center[:, 0])
    horizontal = inside(columns, width, center[:, 1])
    return (vertical[:, :, None] & horizontal[:, None, :]).unsqueeze(1)


class CutMix(Method):
    """x' = x_i outside a box and x_j inside it, t' = λ' t_i + (1-λ') t_j with λ' = 1 - |box| / HW:
    a box of another image is pasted in, and targets are mixed by the exact area.

    Images only.

    alpha: α of λ ~ Beta(α, α), whose box covers 1 - λ, above 0; 1 (paper).
    probability: share of the batches that are mixed, 0 to 1; 1 (paper's code: 0.5 on CIFAR).
    per_sample: one box and one λ per sample; false: one for the batch (paper).
    turns: with mixup, batches of this one in proportion to the other's, above 0; 1: as many.
    """

    neutral = {"probability": 0}
    declaration = Declaration(
        modalities=("image",),
        slots=("mixer",),
        turns=("mixer",),
        tags=("mixes_inputs", "soft_targets"),
        ddp_exact=False,
        ddp_difference="samples mix with partners on their own rank",
    )

    def __init__(
        self,
        alpha: Annotated[float, Field(gt=0)] = 1.0,
        probability: Annotated[float, Field(ge=0, le=1)] = 1.0,
        per_sample: bool = False,
        turns: Scale = 1.0,
    ):
        self.alpha = alpha
        self.probability = probability
        self.per_sample = per_sample
        self.turns = turns

    def prepare(self, step: Step, context: Context) -> None:
        if not has_turn(self, step, context):
            return
        entry = step.inputs["labeled"]
        x = entry.embedded.x
        rows = entry.size
        share, partner = draw_mixing(step, self.key, rows, self.alpha, self.per_sample)
        random = step.randomness
        purpose = f"{self.key}/box"
        source = random.draw(purpose, rows) if self.per_sample else random.shared(purpose)
        center = source.uniform(2).expand(rows, 2)
        applied = random.shared(f"{self.key}/applied").bernoulli(self.probability)
        inside = box_masks(share, center, *x.shape[-2:]) & applied
        # not λ: a box clipped at the border is smaller than 1 - λ
        own_share = 1.0 - inside.float().mean((1, 2, 3))
        mixed = Embedded(torch.where(inside, x[partner], x))
        targets = mix_targets(entry, partner, own_share, context)
        step.change("labeled", embedded=mixed, targets=targets)
