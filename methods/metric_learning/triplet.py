"""Triplet loss. Schroff, Kalenichenko and Philbin, FaceNet, CVPR 2015, arXiv 1503.03832; batch hard mining and the soft
margin after Hermans, Beyer and Leibe, In defense of the triplet loss for person re-identification, 2017, arXiv
1703.07737."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from datamodules.errors import UserError
from methods.metric_learning.metric import Dim, PairLoss, Scores, Weight
from methods.metric_learning.pairs import Pairs, distances, mean_where, squared_distances

Mining = Literal["all", "batch_hard", "semi_hard", "semi_hard_all"]
Reduction = Literal["mean_all", "mean_nonzero"]
INF = float("inf")


def hinge_sums(d: Tensor, pairs: Pairs, margin: float, semi_hard: bool = False) -> tuple[Tensor, Tensor]:
    """Σ over all triplets of [d_ap - d_an + m]+ and how many of them are above 0, each [B] by anchor.

    Exact, with its exact gradient, from two sorts of each row instead of a triplet each: the sum is
    Σ_p k_p (d_ap + m) - Σ_n k_n d_an, where k counts the partners with which a positive or a negative is active.
    d: [B, R]. semi_hard: only triplets whose negative is farther than the positive.
    """
    with torch.no_grad():
        reach = d + margin
        negatives = torch.where(pairs.negative, d, INF).sort(1).values
        near = torch.where(pairs.positive, d, -INF).sort(1).values
        far = torch.where(pairs.positive, reach, -INF).sort(1).values
        of_positive = torch.searchsorted(negatives, reach)
        of_negative = d.shape[1] - torch.searchsorted(far, d, right=True)
        if semi_hard:
            of_positive -= torch.searchsorted(negatives, d, right=True)
            of_negative -= d.shape[1] - torch.searchsorted(near, d)
        of_positive = torch.where(pairs.positive, of_positive, 0).clamp_min(0)
        of_negative = torch.where(pairs.negative, of_negative, 0).clamp_min(0)
    return (of_positive * (d + margin) - of_negative * d).sum(1), of_positive.sum(1)


def hardest(d: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """d_ap - d_an of the farthest positive and the nearest negative, [B], and which anchors have both."""
    both = pairs.positive.any(1) & pairs.negative.any(1)
    positive = torch.where(pairs.positive, d, -INF).amax(1)
    negative = torch.where(pairs.negative, d, INF).amin(1)
    return torch.where(both, positive, 0.0) - torch.where(both, negative, 0.0), both


def next_farther(d: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """d_ap - d_an, [B, R], for every positive pair with the nearest negative farther than the positive, or the
    farthest of all where none is; and which entries are such pairs."""
    with torch.no_grad():
        negatives, order = torch.where(pairs.negative, d, INF).sort(1)
        number = pairs.negative.sum(1, keepdim=True)
        place = torch.searchsorted(negatives, d.detach().contiguous(), right=True)
        chosen = order.gather(1, torch.minimum(place, number - 1).clamp_min(0))
    return d - d.gather(1, chosen), pairs.positive & (number > 0)


def triplet(
    d: Tensor, pairs: Pairs, margin: float, mining: Mining, soft: bool, reduction: Reduction | None
) -> tuple[Tensor, Tensor]:
    """The loss, and the share of the triplets whose hinge is above 0. d: [B, R] distances, squared or not."""
    if mining in ("all", "semi_hard_all"):
        sums, active = hinge_sums(d, pairs, margin, semi_hard=mining == "semi_hard_all")
        number = (pairs.positive.sum(1) * pairs.negative.sum(1)).sum()
        divisor = number if reduction == "mean_all" else active.sum()
        return sums.sum() / divisor.clamp_min(1), active.sum() / number.clamp_min(1)
    difference, mask = hardest(d, pairs) if mining == "batch_hard" else next_farther(d, pairs)
    active = mask & (difference + margin > 0)
    values = F.softplus(difference + margin) if soft else (difference + margin).clamp_min(0)
    chosen = active if reduction == "mean_nonzero" and not soft else mask
    return mean_where(values, chosen), active.sum() / mask.sum().clamp_min(1)


class Triplet(PairLoss):
    """L = mean over triplets of [D_ap - D_an + m]+: a sample is nearer to its own class than to any other, by m.

    mining chooses the triplets. `all`: every one, exact by sorting, no B³ numbers. `batch_hard`: for each anchor its
    farthest positive and nearest negative. `semi_hard`: for each positive pair the nearest negative farther than the
    positive, else the farthest of all (FaceNet's form). `semi_hard_all`: all triplets with D_ap < D_an < D_ap + m.
    Logged as `active`: the share of the triplets above 0.

    margin m: .2, for squared distances of unit vectors in [0, 4]; margins do not carry over to unsquared ones. squared:
    D = ‖·‖² or ‖·‖. soft: softplus(D_ap - D_an + m) for the hinge, with `batch_hard` or `semi_hard`; with margin 0 it
    is Hermans' best variant, on unsquared distances of unnormalised embeddings. reduction: `mean_nonzero` divides by
    the triplets above 0, `mean_all` by all; null: the papers', mean_nonzero for `all` and `semi_hard_all`, else
    mean_all. weight: 1. dim: 128, width of the embedding. normalize: the head ends on the sphere.
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
                f"methods.triplet.soft=true: with mining={mining} it would need a number for each of B³ triplets; "
                "expected mining=batch_hard or semi_hard"
            )
        self.margin, self.mining, self.squared = margin, mining, squared
        self.soft, self.reduction = soft, reduction

    def between(self, x: Tensor, references: Tensor, pairs: Pairs) -> tuple[Tensor, Scores]:
        d = (squared_distances if self.squared else distances)(x, references)
        value, active = triplet(d, pairs, self.margin, self.mining, self.soft, self.reduction)
        return value, {"active": active}
