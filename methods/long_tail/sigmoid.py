"""One-vs-rest classifiers: C sigmoids per sample, their losses summed over classes."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from recipes.contract import Context

SOFTMAX_ONLY = (
    "a shift by the class prior is undone by a softmax at prediction, not by independent "
    "sigmoids: use mode=softmax"
)


def summed(positive: Tensor, negative: Tensor) -> Tensor:
    """ℓ_y = Σ_{c≠y} negative_c + positive_y for every y, [N, C]: the sample's loss if y were its
    class."""
    return negative.sum(1, keepdim=True) - negative + positive


def binary_costs(logits: Tensor) -> tuple[Tensor, Tensor]:
    """-log s_c and -log(1 - s_c), [N, C] in float32."""
    # softplus, since log(1 + exp(-z)) overflows
    return F.softplus(-logits.float()), F.softplus(logits.float())


def start_rare(context: Context) -> None:
    """Set the heads' biases to -log(C - 1), so that every class starts with probability 1/C. From
    1/2 the first steps would only lower the C - 1 negatives of each sample."""
    for name, task in context.tasks.items():
        fill_bias(context.network.heads[name], -math.log(max(task.outputs - 1, 1)))


def start_at(probability: float, context: Context) -> None:
    """The same for a given probability r of every class: biases of -log((1 - r) / r)."""
    for name in context.tasks:
        fill_bias(context.network.heads[name], math.log(probability) - math.log1p(-probability))


def fill_bias(head: nn.Module, value: float) -> None:
    bias = getattr(head, "bias", None)
    if bias is not None:
        nn.init.constant_(bias, value)
