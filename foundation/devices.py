"""What may be asked of the device that a tensor lies on."""

import torch
from torch import Tensor


def readable(tensor: Tensor) -> bool:
    """Whether the host can look at the numbers without a wait for the device."""
    return tensor.device.type == "cpu"


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float64; in float32 on Apple's GPUs, which have no other."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)
