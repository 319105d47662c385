"""Small matrices, T × T, in NumPy where they lie on the CPU: an operation on so few numbers costs a
fraction of a tensor's. On a device they stay tensors, and the host does not wait for them unless a
caller asks for arrays (MGDA beyond eight tasks).

What uses only operators and the methods that arrays and tensors share is so written once for both.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foundation import devices


def to_numpy_on_cpu(*tensors: Tensor, wait: bool = False) -> Any:
    """A tuple of the tensors, as arrays if they lie on the CPU, else as they are. wait: as arrays
    from a device too, for which the host waits. An array shares the memory of its tensor."""
    if wait or devices.readable(tensors[0]):
        return tuple(tensor.detach().cpu().numpy() for tensor in tensors)
    return tensors


def like_tensor(value: Any, like: Tensor) -> Tensor:
    """An array, or a tensor, as a tensor; an array gets the dtype and device of `like`."""
    return value if isinstance(value, Tensor) else torch.from_numpy(value).to(like)


def solve(matrix: Any, right: Any) -> Any:
    """x in `matrix` x = `right`, [T, T] and [T]; NaN on the CPU, and no exception, where there is
    no solution, so that neither device has to check the values."""
    if isinstance(matrix, Tensor):
        return torch.linalg.solve_ex(matrix, right)[0]
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.full_like(right, np.nan)
