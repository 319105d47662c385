"""Triplet loss. Schroff, Kalenichenko and Philbin, FaceNet, CVPR 2015, arXiv 1503.03832; batch hard
mining and the soft margin after Hermans, Beyer and Leibe, In defense of the triplet loss for person
re-identification, 2017, arXiv 1703.07737."""

from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from foundation.errors import UserError
from methods.metric_learning.blocks import Block, Entries, Loss, Rows, summed
from methods.metric_learning.measures import FAR, Distance, SquaredDistance
from methods.metric_learning.metric import Dim, PairLoss, Scores, Weight

Mining = Literal["all", "batch_hard", "semi_hard", "semi_hard_all"]
Reduction = Literal["mean_all", "mean_nonzero"]
# positives an anchor up to which a pass over its row for each is cheaper than sorting the row
PASSES = 256


def partners(block: Block, margin: float, semi_hard: bool) -> tuple[Tensor, Tensor]:
    """k [b, K] and [b, R]: with how many negatives each positive, and with how many positives each
    negative, makes a triplet whose hinge [d_ap - d_an + m]+ is above 0; semi_hard: only those with
    d_ap < d_an."""
    d = block.negative
    nearest = torch.where(block.valid, block.positive, -FAR)
    reach = torch.where(block.valid, block.positive + margin, -FAR)
    if nearest.shape[1] > PASSES:
        return partners_by_sorting(d, nearest, reach, semi_hard)
    of_positive, of_negative, active, beyond = (
        torch.zeros_like(reach),
        *(torch.zeros_like(d) for _ in range(3)),
    )
    for k in range(reach.shape[1]):
        torch.lt(d, reach[:, k, None], out=active)
        if semi_hard:
            active.mul_(torch.gt(d, nearest[:, k, None], out=beyond))
        of_positive[:, k] = active.sum(1)
        of_negative += active
    return of_positive, of_negative


def partners_by_sorting(
    d: Tensor, nearest: Tensor, reach: Tensor, semi_hard: bool
) -> tuple[Tensor, Tensor]:
    """The same from two sorts of each row, whatever the number of positives, and without a wait for
    the device."""
    ordered, size = d.sort(1).values, reach.shape[1]
    of_positive = torch.searchsorted(ordered, reach)
    of_negative = size - torch.searchsorted(reach.sort(1).values, d, right=True)
    if semi_hard:
        of_positive -= torch.searchsorted(ordered, nearest, right=True)
        of_negative -= size - torch.searchsorted(nearest.sort(1).values, d)
    return of_positive.clamp_min(0).to(d), of_negative.clamp_min(0).to(d)


def all_triplets(block: Block, margin: float, semi_hard: bool = False) -> Rows:
    """Σ over all triplets of [d_ap - d_an + m]+: exactly Σ_p k_p (d_ap + m) - Σ_n k_n d_an, where k
    counts the partners with which a positive or a negative is active, and so its own derivative.
    counts: the active ones, and all."""
    of_positive, of_negative = partners(block, margin, semi_hard)
    near = (of_positive * (block.positive + margin)).sum()
    value = near - (of_negative * block.negative).sum(1).sum()
    counts = of_positive.sum(1).long().sum(), (block.valid.sum(1) * block.negatives).sum()
    return Rows(
        value, of_positive, of_negative.neg_(), counts=torch.stack(counts), active=counts[0]
    )


def hinges(
    difference: Tensor, mask: Tensor, margin: float, soft: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ of the masked [difference + m]+ or softplus, its derivative, and counts: above 0, and
    all."""
    z = torch.where(mask, difference + margin, -FAR)
    active = z > 0
    values, slope = (F.softplus(z), torch.sigmoid(z)) if soft else (z.clamp_min(0), active.to(z))
    return values.sum(), slope, torch.stack([active.sum(), mask.sum()])


def batch_hard(block: Block, margin: float, soft: bool) -> Rows:
    """[d_ap - d_an + m]+ of the farthest positive and the nearest negative, the first where several
    are equal."""
    far, p = torch.where(block.valid, block.positive, -FAR).max(1, keepdim=True)
    near, n = block.negative.min(1, keepdim=True)
    both = block.valid.any(1, keepdim=True) & (block.negatives > 0)[:, None]
    value, slope, counts = hinges(far - near, both, margin, soft)
    index = torch.cat([block.index.gather(1, p), n], 1)
    entries = Entries(index, torch.cat([slope, -slope], 1), torch.cat([far, near], 1))
    return Rows(value, entries=entries, counts=counts)


def next_farther(block: Block) -> Tensor:
    """[b, K], for every positive the nearest negative farther than it, or the farthest of all where
    none is."""
    d, size = block.negative, block.negative.shape[1]
    number = block.negatives[:, None]
    if block.positive.shape[1] > PASSES:
        ordered, order = d.sort(1)
        place = torch.searchsorted(ordered, block.positive, right=True)
        return order.gather(1, torch.minimum(place, number - 1).clamp_min(0))
    farthest = torch.where(d < FAR / 2, d, -FAR).argmax(1)
    chosen = torch.empty(block.positive.shape, dtype=torch.int64, device=d.device)
    beyond = torch.empty_like(d)
    for k in range(chosen.shape[1]):
        torch.le(d, block.positive[:, k, None], out=beyond)
        least, place = torch.add(d, beyond, alpha=FAR, out=beyond).min(1)
        chosen[:, k] = torch.where(least < FAR / 2, place, farthest)
    return chosen.clamp_(0, size - 1)


def semi_hard(block: Block, margin: float, soft: bool) -> Rows:
    """[d_ap - d_an + m]+ of every positive with the next farther negative."""
    chosen, mask = next_farther(block), block.valid & (block.negatives > 0)[:, None]
    farther = block.negative.gather(1, chosen)
    value, slope, counts = hinges(block.positive - farther, mask, margin, soft)
    index, kept = torch.cat([block.index, chosen], 1), torch.cat([block.positive, farther], 1)
    return Rows(value, entries=Entries(index, torch.cat([slope, -slope], 1), kept), counts=counts)


class Triplet(PairLoss):
    """L = mean over triplets of [D_ap - D_an + m]+: a sample is nearer to its own class than to any
    other, by m.

    Logged as `active`: the share of the triplets above 0.

    margin: margin m, at least 0; 0.2 (FaceNet), for squared distances of unit vectors in [0, 4].
        Margins do not carry over to unsquared distances.
    mining: triplets: `all`, `batch_hard`, `semi_hard` (FaceNet) or `semi_hard_all`. `all`: every
        one, exact without B³ numbers. `batch_hard`: for each anchor its farthest positive and
        nearest negative. `semi_hard`: for each positive pair the nearest negative farther than the
        positive, else the farthest of all. `semi_hard_all`: all triplets with D_ap < D_an < D_ap +
        m.
    squared: D = ‖·‖² (FaceNet); false: ‖·‖ (Hermans et al.).
    soft: softplus for the hinge, with mining `batch_hard` or `semi_hard`; false (FaceNet). With
        margin 0 it is Hermans' best variant, on unsquared distances of unnormalised embeddings.
    reduction: divide by the triplets above 0, `mean_nonzero`, or by all, `mean_all`; null: the
        paper's. The papers have mean_nonzero for `all` and `semi_hard_all`, else mean_all.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (FaceNet).
    normalize: L2-normalise the embedding; true (FaceNet).
    """

    def __init__(
        self,
        margin: Annotated[float, Field(ge=0)] = 0.2,
        mining: Mining = "all",
        squared: bool = True,
        soft: bool = False,
        reduction: Reduction | None = None,
        weight: Weight = 1.0,
        dim: Dim = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        if soft and mining in ("all", "semi_hard_all"):
            raise UserError(
                f"methods.triplet.soft=true: with mining={mining} it would need a number for each "
                "of B³ triplets; "
                "expected mining=batch_hard or semi_hard"
            )
        self.margin, self.mining, self.squared = margin, mining, squared
        self.soft, self.reduction = soft, reduction

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        measure = SquaredDistance() if self.squared else Distance()
        total, counts = summed(measure, self.of_block, x, labels, references, reference_labels)
        active, number = counts.unbind()
        nonzero = self.mining in ("all", "semi_hard_all") and self.reduction is None
        nonzero |= self.reduction == "mean_nonzero" and not self.soft
        return total / (active if nonzero else number).clamp_min(1), {
            "active": active / number.clamp_min(1)
        }

    @property
    def of_block(self) -> Loss:
        if self.mining in ("all", "semi_hard_all"):
            return partial(
                all_triplets, margin=self.margin, semi_hard=self.mining == "semi_hard_all"
            )
        mined = batch_hard if self.mining == "batch_hard" else semi_hard
        return partial(mined, margin=self.margin, soft=self.soft)
