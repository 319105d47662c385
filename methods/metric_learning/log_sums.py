"""log Σ exp z and log(1 + Σ exp z) along rows, each with its derivative by z. Entries that take no
part are -MASKED.

Trick: the derivative of log Σ exp z is softmax z, and its largest entry is 1 / Σ exp(z - max z). So
one softmax, whose kernel passes once over a row that is in the cache, gives both the derivative
and the sum. An exp of -MASKED outside that kernel takes forty times as long as one of a common
number.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

EXACT = 80.0  # from here softplus z = z: e^-80 is below its rounding, and e^80 still a float


class LogSum(NamedTuple):
    """value: [b, 1]. share: [b, n], ∂value/∂z, each exponential's share of the sum."""

    value: Tensor
    share: Tensor

    def gradient(self, factor: Tensor | float) -> Tensor:
        """factor · ∂value/∂z, [b, n], in the memory of `share`. factor: a number, or [b, 1]."""
        return self.share.mul_(factor)


def log_sum_exp(z: Tensor, out: Tensor | None = None) -> LogSum:
    """log Σ exp z. z: [b, n]. out: memory for the share.

    A row without entries gets about -MASKED, and a share that the caller has to leave out.
    """
    share = torch.softmax(z, 1) if out is None else torch.softmax(z, 1, out=out)
    value = z.amax(1, keepdim=True).sub_(share.amax(1, keepdim=True).log_())
    return LogSum(value, share)


def log_one_plus_sum_exp(z: Tensor, out: Tensor | None = None) -> LogSum:
    """log(1 + Σ exp z) = softplus(log Σ exp z). z: [b, n]. out: memory for the share.

    A row without entries gets 0, and a share of 0.
    """
    value, share = log_sum_exp(z, out)
    return LogSum(softplus(value, threshold=EXACT), share.mul_(value.sigmoid_()))
