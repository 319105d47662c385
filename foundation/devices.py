"""Properties of the device of a tensor."""

import torch
from torch import Tensor


def readable(tensor: Tensor) -> bool:
    """Whether the host can read the values without a device sync."""
    return tensor.device.type == "cpu"


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float64; in float32 on Apple GPUs, which do not support float64."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)
