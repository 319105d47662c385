"""Named loss terms: unreduced values with weight, mask and denominator, and the one place that
reduces them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foundation.distributed import global_sum, world_size

Denominator = Literal["samples", "confident"]


@dataclass
class Term:
    """One named summand of the training loss: weight · Σ_i mask_i · values_i / denominator.

    values: [N], one loss a sample (or a scalar, which is taken as it is), with gradient.
    weight: factor of the whole term; a ramp's present value goes here.
    mask: [N] weights in [0, 1] or booleans, None for all ones. Carries no gradient.
    denominator: `samples` divides by N, masked samples included (equal on all ranks, so that
        averaging gradients over ranks gives the global mean); `confident` divides by the sum of the
        mask over the *global* batch, at least 1.
    task: the task whose loss this is part of; methods that weigh tasks group terms by it.
    """

    name: str
    values: Tensor
    weight: float | Tensor = 1.0
    mask: Tensor | None = None
    denominator: Denominator = "samples"
    task: str | None = None

    def weighted(self, loss: Tensor) -> Tensor:
        """weight · loss, `loss` being this term reduced; a constant weight of one costs no
        operation."""
        return loss if isinstance(self.weight, float) and self.weight == 1.0 else self.weight * loss

    def reduced(self) -> Tensor:
        """The term's scalar, without its weight, in float32."""
        values = self.values.float()
        if values.ndim == 0:
            return values
        if self.mask is None:
            return values.mean()
        mask = self.mask.detach()
        # filled, not a product alone: a masked sample may hold inf, and 0 * inf is nan
        if mask.dtype == torch.bool:
            kept = values.masked_fill(~mask, 0.0)
        else:
            kept = values.masked_fill(mask <= 0, 0.0) * mask.float()
        if self.denominator == "samples":
            return kept.mean()
        # gradients are averaged over ranks, so the local sum is scaled up by their number
        return kept.sum() * world_size() / global_sum(mask.sum(dtype=values.dtype)).clamp_min(1.0)
