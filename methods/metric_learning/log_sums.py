"""Logarithms of sums of exponentials along rows, with their derivatives. What takes no part is -FAR in them."""

import torch
from torch import Tensor

from methods.metric_learning.measures import FAR


def where_far(mask: Tensor, z: Tensor, far: float = -FAR) -> Tensor:
    return torch.where(mask, z, far)


def log_sum_exp(z: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ exp z, [b], and its derivative [b, n], in place of z. Where there is nothing to sum a very small finite
    number without gradient, since sums and comparisons with -inf have none."""
    top = z.amax(1, keepdim=True)
    some = top > -FAR / 2
    e = z.sub_(torch.where(some, top, 0)).exp_()
    whole = e.sum(1, keepdim=True)
    value = torch.where(some, top + whole.clamp_min(torch.finfo(z.dtype).tiny).log(), -1e4)
    return value.squeeze(1), e.div_(torch.where(some, whole, 1))


def log_one_plus_sum_exp(z: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + Σ exp z), [b], 0 where there is nothing to sum, and its derivative [b, n], in place of z."""
    top = z.amax(1, keepdim=True).clamp_min_(0)
    e = z.sub_(top).exp_()
    whole = e.sum(1, keepdim=True).add_((-top).exp_())
    return (top + whole.log()).squeeze(1), e.div_(whole)
