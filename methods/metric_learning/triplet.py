"""Triplet loss. Schroff, Kalenichenko and Philbin, FaceNet, CVPR 2015, arXiv 1503.03832; batch hard
mining and the soft margin after Hermans, Beyer and Leibe, In defense of the triplet loss for person
re-identification, 2017, arXiv 1703.07737; distance weighted mining after Wu, Manmatha, Smola and
Krähenbühl, Sampling matters in deep embedding learning, ICCV 2017, arXiv 1706.07567."""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from foundation.errors import UserError
from foundation.randomness import generator
from foundation.types import Count, Weight
from methods.metric_learning.blocks import Block, BlockLoss, Entries, Loss
from methods.metric_learning.measures import MASKED, Distance, SquaredDistance
from methods.metric_learning.metric import PairLoss, Scores
from methods.metric_learning.mining import active_partners, draw_by_distance, next_farther
from methods.metric_learning.pair_gradients import sum_over_anchors
from recipes.contract import Context

Mining = Literal["all", "batch_hard", "semi_hard", "semi_hard_all", "distance_weighted"]
Reduction = Literal["mean_all", "mean_nonzero"]


def all_triplets(block: Block, margin: float | Tensor, semi_hard: bool = False) -> BlockLoss:
    """Σ over all triplets of [d_ap - d_an + m]+ = Σ_p k_p (d_ap + m) - Σ_n k_n d_an, exactly.

    k counts the partners with which a positive, or a negative, is in a triplet above 0; so k is the
    derivative too. counts: the triplets above 0, and all.
    """
    k_positive, k_negative = active_partners(block, margin, semi_hard)
    of_positives = (k_positive * (block.positive + margin)).sum()
    of_negatives = (k_negative * block.negative).sum(1).sum()
    active = k_positive.sum(1).long().sum()
    triplets = (block.valid.sum(1) * block.negative_count).sum()
    counts = torch.stack([active, triplets])
    # the value is a difference of large sums, so that rounding may make it 0 though some are active
    return BlockLoss(
        of_positives - of_negatives, k_positive, k_negative.neg_(), counts=counts, active=active
    )


def of_pairs(
    positive: tuple[Tensor, Tensor],
    negative: tuple[Tensor, Tensor],
    mask: Tensor,
    margin: float,
    soft: bool,
) -> BlockLoss:
    """Σ of [d_ap - d_an + m]+, soft: of softplus(d_ap - d_an + m), over chosen triplets.

    positive, negative: the distances and which references, [b, n] each. mask: [b, n], False where
    there is no such triplet. counts: the triplets above 0, and all.
    """
    d_ap, p = positive
    d_an, n = negative
    z = torch.where(mask, d_ap - d_an + margin, -MASKED)
    active = z > 0
    if soft:
        losses = F.softplus(z)
        grad = torch.sigmoid(z)
    else:
        losses = z.clamp_min(0)
        grad = active.to(z)
    entries = Entries(torch.cat([p, n], 1), torch.cat([grad, -grad], 1), torch.cat([d_ap, d_an], 1))
    counts = torch.stack([active.sum(), mask.sum()])
    return BlockLoss(losses.sum(), entries=entries, counts=counts)


def batch_hard(block: Block, margin: float, soft: bool) -> BlockLoss:
    """Σ over anchors of [max_p d_ap - min_n d_an + m]+; the first where several are equal."""
    d_ap, place = torch.where(block.valid, block.positive, -MASKED).max(1, keepdim=True)
    d_an, n = block.negative.min(1, keepdim=True)
    p = block.positive_index.gather(1, place)
    return of_pairs((d_ap, p), (d_an, n), block.has_both, margin, soft)


def semi_hard(block: Block, margin: float, soft: bool) -> BlockLoss:
    """Σ over positive pairs of [d_ap - min{d_an > d_ap} + m]+; with the farthest negative where
    none is farther."""
    n = next_farther(block)
    d_an = block.negative.gather(1, n)
    mask = block.valid & (block.negative_count > 0)[:, None]
    return of_pairs((block.positive, block.positive_index), (d_an, n), mask, margin, soft)


def distance_weighted(
    block: Block, margin: float, soft: bool, squared: bool, dim: int, source: torch.Generator
) -> BlockLoss:
    """Σ over positive pairs of [d_ap - d_an + m]+ with a negative drawn by its distance."""
    distance = block.negative.sqrt() if squared else block.negative
    distance = torch.where(block.negative < MASKED / 2, distance, MASKED)
    n = draw_by_distance(distance, block, dim, source)
    d_an = block.negative.gather(1, n)
    mask = block.valid & (block.negative_count > 0)[:, None]
    return of_pairs((block.positive, block.positive_index), (d_an, n), mask, margin, soft)


class Triplet(PairLoss):
    """L = mean over triplets of [D_ap - D_an + m]+: a sample is nearer to its own class than to any
    other, by m.

    Logged as `active`: the share of the triplets above 0.

    margin: margin m, at least 0; 0.2 (FaceNet), for squared distances of unit vectors in [0, 4].
        Margins do not carry over to unsquared distances.
    mining: triplets: `all`, `batch_hard`, `semi_hard` (FaceNet), `semi_hard_all` or
        `distance_weighted`. `all`: every one, exact without B³ numbers. `batch_hard`: for each
        anchor its farthest positive and nearest negative. `semi_hard`: for each positive pair the
        nearest negative farther than the positive, else the farthest of all. `semi_hard_all`: all
        triplets with D_ap < D_an < D_ap + m. `distance_weighted` (Wu et al.): for each positive
        pair a negative drawn so that all distances up to 1.4 come equally often; unit vectors only.
    squared: D = ‖·‖² (FaceNet); false: ‖·‖ (Hermans et al.).
    soft: softplus for the hinge, with mining of single triplets; false (FaceNet). With
        margin 0 it is Hermans' best variant, on unsquared distances of unnormalised embeddings.
    reduction: divide by the triplets above 0, `mean_nonzero`, or by all, `mean_all`; null: the
        paper's. The papers have mean_nonzero for `all` and `semi_hard_all`, else mean_all.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (FaceNet).
    normalize: L2-normalise the embedding; true (FaceNet).
    """

    name = "triplet"  # in messages

    def __init__(
        self,
        margin: Weight = 0.2,
        mining: Mining = "all",
        squared: bool = True,
        soft: bool = False,
        reduction: Reduction | None = None,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        if soft and mining in ("all", "semi_hard_all"):
            raise UserError(
                f"methods.{self.name}.soft=true: with mining={mining} it would need a number for "
                "each of B³ triplets; expected mining=batch_hard or semi_hard"
            )
        if mining == "distance_weighted" and not normalize:
            raise UserError(
                f"methods.{self.name}.mining=distance_weighted: is for distances on the unit "
                f"sphere; expected methods.{self.name}.normalize=true"
            )
        self.margin = margin
        self.mining = mining
        self.squared = squared
        self.soft = soft
        self.reduction = reduction

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        if self.mining != "distance_weighted":
            return self.between(x, labels)
        step = context.trainer.global_step
        source = generator(context.seed, self.key, task, step, device=x.device)
        drawn = partial(
            distance_weighted,
            margin=self.margin,
            soft=self.soft,
            squared=self.squared,
            dim=x.shape[1],
            source=source,
        )
        return self.mean_over_triplets(drawn, x, labels)

    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        return self.mean_over_triplets(self.of_block, x, labels, references, reference_labels)

    def mean_over_triplets(self, loss: Loss, *sides: Tensor | None) -> tuple[Tensor, Scores]:
        measure = SquaredDistance() if self.squared else Distance()
        total, counts = sum_over_anchors(measure, loss, *sides)  # type: ignore[arg-type]
        active, triplets = counts.unbind()
        divisor = active if self.divides_by_active else triplets
        return total / divisor.clamp_min(1), {"active": active / triplets.clamp_min(1)}

    @property
    def takes_all(self) -> bool:
        return self.mining in ("all", "semi_hard_all")

    @property
    def divides_by_active(self) -> bool:
        if self.reduction is None:
            return self.takes_all
        # every softplus is above 0
        return self.reduction == "mean_nonzero" and not self.soft

    @property
    def of_block(self) -> Loss:
        if self.takes_all:
            return partial(
                all_triplets, margin=self.margin, semi_hard=self.mining == "semi_hard_all"
            )
        mined = batch_hard if self.mining == "batch_hard" else semi_hard
        return partial(mined, margin=self.margin, soft=self.soft)
