"""Logarithms of sums of exponentials along rows, with their derivatives. What takes no part is -FAR
in them.

The derivative of log Σ exp z is softmax z, whose kernel is one pass over rows that the cache holds;
and the largest entry of it is 1 / Σ exp(z - max z), so it tells the sum too. An exponential of -FAR
outside that kernel takes forty times as long as one of a common number.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from methods.metric_learning.measures import FAR

EXACT = 80.0  # softplus z is taken for z from here: e^-80 is no part of it, e^80 still a float


def where_far(mask: Tensor, z: Tensor, far: float = -FAR) -> Tensor:
    return torch.where(mask, z, far)


def log_sum_exp(z: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log Σ exp z, [b, 1], and its derivative [b, n], in `out`. Where there is nothing to sum about
    -FAR, and a derivative that the caller has to leave out."""
    share = torch.softmax(z, 1) if out is None else torch.softmax(z, 1, out=out)
    return z.amax(1, keepdim=True).sub_(share.amax(1, keepdim=True).log_()), share


def log_one_plus_sum_exp(z: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log(1 + Σ exp z), [b, 1], and its derivative [b, n], in `out`; both 0 where there is nothing
    to sum."""
    value, share = log_sum_exp(z, out)
    return softplus(value, threshold=EXACT), share.mul_(value.sigmoid_())
