"""Small matrices on the CPU as arrays of NumPy: an operation on T × T numbers costs a fraction of a
tensor's. On other devices they stay tensors, and nothing waits unless a caller asks for arrays
(MGDA beyond eight tasks)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundation import devices


def light(*tensors: Tensor, wait: bool = False) -> Any:
    """The tensors as arrays where they lie on the CPU, else as they are; wait: as arrays in any
    case. What is computed with operators and with the methods that both kinds have is written once.
    """
    if wait or devices.readable(tensors[0]):
        return tuple(tensor.detach().cpu().numpy() for tensor in tensors)
    return tensors


def heavy(found: Any, like: Tensor) -> Tensor:
    """A tensor of the same kind as `like`."""
    return found if isinstance(found, Tensor) else torch.from_numpy(found).to(like)


def solved(system: Any, right: Any) -> Any:
    """x in `system` x = `right`, [T, T] and [T]; no numbers where there is no solution."""
    if isinstance(system, Tensor):
        return torch.linalg.solve_ex(system, right)[0]
    try:
        return np.linalg.solve(system, right)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)
