"""The factor of the focal loss. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv
1708.02002."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.step.criterion import one_hot


def log_rest(logits: Tensor) -> Tensor:
    """log(1 - p_c) for each class, [N, C] in float32."""
    # For the most probable class it is the logsumexp of the others: 1 - p could round to 0, where
    # the gradient of its power is NaN.
    log_p = F.log_softmax(logits.float(), dim=1)
    top = one_hot(logits.argmax(1), logits.shape[1]).bool()
    others = log_p.masked_fill(top, -torch.inf)
    return torch.where(top, others.logsumexp(1, keepdim=True), torch.log1p(-others.exp()))


def modulation(logits: Tensor, gamma: float) -> Tensor:
    """(1 - p_c)^γ of p = softmax(z), [N, C]."""
    return torch.exp(gamma * log_rest(logits))
