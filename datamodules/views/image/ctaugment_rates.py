"""What CTAugment has learned: a rate per bin of every operation's strength."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from foundation.randomness import RowNumbers

BINS = 17
ABSENT = -1.0  # in place of the rate of a bin that an operation does not have


class Choice(NamedTuple):
    """The operations of every row and their strengths. codes, bins: int64 [B, depth]. level: [B,
    depth] in [0, 1), uniform within the bin."""

    codes: Tensor
    bins: Tensor
    level: Tensor


def bin_weights(rates: Tensor, threshold: float, decay: float) -> Tensor:
    """w_i = (m_i + 1 - decay) / max of these, and 0 below the threshold. rates: [..., bins]; a bin
    that an operation does not have gets 0."""
    weights = rates + (1.0 - decay)
    weights = weights / weights.amax(-1, keepdim=True)
    return torch.where(weights < threshold, 0.0, weights)


def draw_bins(weights: Tensor, uniform: Tensor) -> Tensor:
    """The bin of each row's distribution that a uniform number in [0, 1) falls into.

    weights: [..., bins]. uniform: [...].
    """
    total = weights.cumsum(-1)
    # below the whole sum, also where the product rounds up: the last bin with a weight
    limit = torch.minimum(
        uniform * total[..., -1], torch.nextafter(total[..., -1], total.new_zeros(()))
    )
    return (total <= limit.unsqueeze(-1)).sum(-1)


class Rates(nn.Module):
    """m [operations, 17], initially 1: how well the model still reads pictures that an operation
    changed with a strength of this bin. Part of checkpoints and equal on all ranks.

    bins: the number of bins of each operation. pool: codes of the operations that may come, depth:
        how many of a picture.
    """

    rates: Tensor
    pool: Tensor

    def __init__(
        self,
        bins: tuple[int, ...],
        pool: tuple[int, ...],
        depth: int,
        threshold: float,
        decay: float,
    ):
        super().__init__()
        self.depth = depth
        self.threshold = threshold
        self.decay = decay
        rates = torch.ones(len(bins), BINS)
        for row, count in enumerate(bins):
            rates[row, count:] = ABSENT
        self.register_buffer("rates", rates)
        self.register_buffer("pool", torch.tensor(pool), persistent=False)

    def weights(self) -> Tensor:
        """[operations, 17]: how likely a training view takes each bin."""
        return bin_weights(self.rates, self.threshold, self.decay)

    def choice(self, rows: RowNumbers, learned: bool = True) -> Choice:
        """A function of the random numbers: by the weights, or with uniform strengths, for a
        probe."""
        which, where, within = rows.uniform(self.depth, 3).unbind(-1)
        codes = self.pool[(which * len(self.pool)).long()]
        there = self.rates != ABSENT
        weights = self.weights() if learned else there.float()
        bins = draw_bins(weights[codes], where)
        return Choice(codes, bins, (bins + within) / there.sum(1)[codes])

    @torch.no_grad()
    def learn(self, codes: Tensor, bins: Tensor, proximity: Tensor) -> None:
        """m ← decay · m + (1 - decay) · proximity for the bin of every operation of every sample,
        one after the other in the order of the rows.

        codes, bins: int64 [N, depth], of the global batch. proximity: [N].
        """
        place = (codes * BINS + bins).flatten()
        values = proximity.float().unsqueeze(1).expand(codes.shape).flatten()
        # a later update of the same bin discounts an earlier one
        same = place[:, None] == place[None, :]
        later = same.triu(1).sum(1)
        own = (1.0 - self.decay) * values * self.decay**later
        gained = torch.zeros_like(self.rates).view(-1).index_add_(0, place, own)
        hits = torch.zeros_like(gained).index_add_(0, place, torch.ones_like(own))
        updated = self.rates.view(-1) * self.decay**hits + gained
        self.rates.copy_(updated.view_as(self.rates))
