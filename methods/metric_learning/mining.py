"""Which triplets of an anchor count, found from its row of distances without a number for each of
the B³ triplets."""

import torch
from torch import Tensor

from methods.metric_learning.blocks import Block
from methods.metric_learning.measures import MASKED

# positives an anchor up to which a pass over its row for each is cheaper than sorting the row
PASSES = 256


def active_partners(block: Block, margin: float | Tensor, semi_hard: bool) -> tuple[Tensor, Tensor]:
    """With how many negatives each positive, [b, K], and with how many positives each negative,
    [b, R], makes a triplet with d_ap - d_an + m > 0; semi_hard: and d_ap < d_an.

    Both in the dtype of the distances.
    """
    lower = torch.where(block.valid, block.positive, -MASKED)
    upper = torch.where(block.valid, block.positive + margin, -MASKED)
    if upper.shape[1] > PASSES:
        return _partners_by_sorting(block.negative, lower, upper, semi_hard)
    return _partners_by_passes(block.negative, lower, upper, semi_hard)


def _partners_by_passes(
    d: Tensor, lower: Tensor, upper: Tensor, semi_hard: bool
) -> tuple[Tensor, Tensor]:
    """Compare the row once with each positive: [b, R] numbers a pass in the same memory, where all
    positives at once would take K times that."""
    of_positive = torch.zeros_like(upper)
    of_negative = torch.zeros_like(d)
    active = torch.zeros_like(d)
    beyond = torch.zeros_like(d)
    for k in range(upper.shape[1]):
        torch.lt(d, upper[:, k, None], out=active)
        if semi_hard:
            active.mul_(torch.gt(d, lower[:, k, None], out=beyond))
        of_positive[:, k] = active.sum(1)
        of_negative += active
    return of_positive, of_negative


def _partners_by_sorting(
    d: Tensor, lower: Tensor, upper: Tensor, semi_hard: bool
) -> tuple[Tensor, Tensor]:
    """The same from two sorts of each row, whatever the number of positives, and without a wait for
    the device."""
    ordered = d.sort(1).values
    count = upper.shape[1]
    of_positive = torch.searchsorted(ordered, upper)
    of_negative = count - torch.searchsorted(upper.sort(1).values, d, right=True)
    if semi_hard:
        of_positive -= torch.searchsorted(ordered, lower, right=True)
        of_negative -= count - torch.searchsorted(lower.sort(1).values, d)
    return of_positive.clamp_min(0).to(d), of_negative.clamp_min(0).to(d)


def next_farther(block: Block) -> Tensor:
    """For each positive the nearest negative with d_an > d_ap, int64 [b, K]; the farthest negative
    where there is none."""
    if block.positive.shape[1] > PASSES:
        return _next_by_sorting(block)
    d = block.negative
    farthest = torch.where(d < MASKED / 2, d, -MASKED).argmax(1)
    chosen = torch.empty(block.positive.shape, dtype=torch.int64, device=d.device)
    nearer = torch.empty_like(d)
    for k in range(chosen.shape[1]):
        torch.le(d, block.positive[:, k, None], out=nearer)
        # what is not farther is masked as what is no negative is
        least, place = torch.add(d, nearer, alpha=MASKED, out=nearer).min(1)
        chosen[:, k] = torch.where(least < MASKED / 2, place, farthest)
    return chosen.clamp_(0, d.shape[1] - 1)


def _next_by_sorting(block: Block) -> Tensor:
    ordered, order = block.negative.sort(1)
    place = torch.searchsorted(ordered, block.positive, right=True)
    last = block.negative_count[:, None] - 1
    return order.gather(1, torch.minimum(place, last).clamp_min(0))


NEAREST = 0.5  # distances below are drawn as often as this one, so that no label error rules
FARTHEST = 1.4  # and those from here on never: their gradient is too small to tell from noise


def distance_weights(distance: Tensor, dim: int) -> Tensor:
    """1 / q(D) of unsquared distances between unit vectors, up to a factor of each row, [b, R]; 0
    from FARTHEST on. q(D) = D^{d-2} (1 - D²/4)^{(d-3)/2} is the density of D on the sphere."""
    clamped = distance.clamp(NEAREST, FARTHEST)
    log_density = (dim - 2) * clamped.log() + (dim - 3) / 2 * (1 - clamped.square() / 4).log()
    log_weights = torch.where(distance < FARTHEST, -log_density, -MASKED)
    # the largest over what may be drawn is 1, whatever the width
    weights = (log_weights - log_weights.amax(1, keepdim=True)).exp()
    return torch.where(distance < FARTHEST, weights, 0)


def draw_by_distance(distance: Tensor, block: Block, dim: int, source: torch.Generator) -> Tensor:
    """For each positive a negative, int64 [b, K], drawn with `distance_weights`; with equal ones
    where no negative is near enough (Wu et al.'s code). distance: [b, R], unsquared."""
    weights = distance_weights(distance, dim)
    near = (weights > 0).any(1, keepdim=True)
    weights = torch.where(near, weights, (distance < MASKED / 2).to(weights))
    sums = weights.cumsum(1)
    draws = torch.rand(
        block.positive.shape, generator=source, device=weights.device, dtype=weights.dtype
    )
    # the first place whose sum is above the draw, which never has a weight of 0
    place = torch.searchsorted(sums, draws * sums[:, -1:], right=True)
    return place.clamp_max(weights.shape[1] - 1)
