"""Directions: gradients divided by their length, however small they are."""

import torch
from torch import Tensor


def unit(x: Tensor, order: float = 2.0) -> Tensor:
    """x / ‖x‖ of every row, over all its dimensions; a row of zeros stays zero.

    order: of the norm: 1, 2 or inf.
    """
    flat = x.flatten(1)
    flat = flat / nonzero(flat.abs().amax(1, keepdim=True))
    norm = torch.linalg.vector_norm(flat, order, dim=1, keepdim=True)
    return (flat / nonzero(norm)).view_as(x)


def nonzero(size: Tensor) -> Tensor:
    """A largest entry or a length, and 1 in place of 0, to divide by.

    A gradient is divided by its largest entry before its length is computed: a confident sample has
    gradients of 1e-30, whose squares underflow, and a lower bound of the length would shorten
    them."""
    return torch.where(size > 0, size, 1.0)
