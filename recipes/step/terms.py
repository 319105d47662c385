"""Named loss terms: unreduced values with weight, mask and denominator, and their reduction."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foundation.distributed import global_sum, world_size

Denominator = Literal["samples", "confident"]


@dataclass
class Term:
    """One named summand of the training loss: weight · Σ_i mask_i · values_i / denominator.

    values: [N], one loss per sample (or a scalar, which is not reduced), with gradient.
    weight: factor of the whole term, the current value of a ramp included.
    mask: [N] weights in [0, 1] or booleans, None for all ones. It has no gradient.
    denominator: `samples` divides by N, masked samples included (equal on all ranks, so that
        averaging gradients over ranks gives the global mean); `confident` divides by the sum of
        `counts` over the *global* batch, at least 1. The global batch is that of one micro-batch on
        all ranks: with accumulation a step takes the mean of its micro-batches' means, whose
        counts differ, and is not the step of one large batch.
    counts: [N], what each sample adds to the `confident` denominator; None: its mask. They differ
        where values have a factor of their own: a target of mass m gives m times a loss.
    task: the task that this loss is part of; methods that weight tasks group terms by it.
    """

    name: str
    values: Tensor
    weight: float | Tensor = 1.0
    mask: Tensor | None = None
    denominator: Denominator = "samples"
    counts: Tensor | None = None
    task: str | None = None

    @property
    def sample_counts(self) -> Tensor | None:
        """[N], what each sample counts, without gradient; None: one each."""
        counts = self.mask if self.counts is None else self.counts
        return None if counts is None else counts.detach()

    def weighted(self, loss: Tensor) -> Tensor:
        """weight · loss, `loss` being this term reduced."""
        # a constant weight of one needs no operation on the device
        if isinstance(self.weight, float) and self.weight == 1.0:
            return loss
        return self.weight * loss

    def reduced(self) -> Tensor:
        """The term's scalar, without its weight, in float32."""
        values = self.values.float()
        if values.ndim == 0:
            return values
        if self.mask is None:
            return values.mean()
        mask = self.mask.detach()
        # filled, not only multiplied: a masked value may be inf, and 0 * inf is NaN
        if mask.dtype == torch.bool:
            values = values.masked_fill(~mask, 0.0)
        else:
            values = values.masked_fill(mask <= 0, 0.0) * mask.float()
        counts = self.sample_counts
        if self.denominator == "samples" or counts is None:
            return values.mean()
        # gradients are averaged over ranks, so the local sum is multiplied by their number
        total = global_sum(counts.sum(dtype=values.dtype)).clamp_min(1.0)
        return values.sum() * world_size() / total
