"""N-pair loss. Sohn, Improved deep metric learning with multi-class N-pair loss objective, NIPS
2016."""

from typing import NamedTuple

import torch
from torch import Tensor

from foundation.types import Count, Scale, Weight
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pairwise import masked_log_sum
from recipes.contract import Context


class Pairs(NamedTuple):
    """Anchors and their positives, [N, d] each, with labels [N] where `valid`."""

    anchors: Tensor
    positives: Tensor
    labels: Tensor
    valid: Tensor


def consecutive_pairs(x: Tensor, labels: Tensor) -> Pairs:
    """The first and second sample of a class in the batch, its third and fourth, …; one that is
    left over and samples without label are in none. N = B/2, whatever the labels are."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    place = torch.arange(len(labels), device=labels.device)
    rank = place - torch.searchsorted(ordered, ordered)
    following = ordered.roll(-1)
    is_anchor = (rank % 2 == 0) & (ordered == following) & (ordered >= 0)
    is_anchor[-1:] = False  # what follows the last is the first
    # anchors to the front: there are at most B/2
    first = (~is_anchor).to(torch.uint8).argsort(stable=True)[: len(labels) // 2]
    anchor = order[first]
    positive = order[(first + 1) % max(len(labels), 1)]
    return Pairs(x[anchor], x[positive], ordered[first], is_anchor[first])


def npair(pairs: Pairs, temperature: float = 1.0) -> Tensor:
    """mean_i of log Σ_j e^{s_ij} - mean_{j of i's class} s_ij, s_ij = ⟨a_i, p_j⟩ / T.

    Where each class has one pair, the second term is s_ii.
    """
    scores = pairs.anchors @ pairs.positives.T / temperature
    both = pairs.valid[:, None] & pairs.valid
    same_class = (pairs.labels[:, None] == pairs.labels) & both
    targets = same_class / same_class.sum(1, keepdim=True).clamp_min(1)
    losses = masked_log_sum(scores, both) - (targets * scores).sum(1)
    # a row that is no pair would be the logarithm of nothing
    return torch.where(pairs.valid, losses, 0).sum() / pairs.valid.sum().clamp_min(1)


def squared_norms(pairs: Pairs) -> Tensor:
    """mean ‖a‖² + mean ‖p‖² over the pairs."""
    squares = pairs.anchors.square().sum(1) + pairs.positives.square().sum(1)
    return (squares * pairs.valid).sum() / pairs.valid.sum().clamp_min(1)


class NPair(MetricLoss):
    """L = mean over pairs of log[1 + Σ_{j≠i} e^{⟨a_i,p_j⟩ - ⟨a_i,p_i⟩}] + l2/4 (mean ‖a‖² + mean
    ‖p‖²): an anchor's own positive against those of all other pairs.

    N-way classification in which the positives of the batch are the classes. Scores are dot
    products of unnormalised embeddings, so norms are kept small by `l2`. Two samples a class are a
    pair, so `methods.pk.samples_per_class=2` is the batch of the paper; with more, several pairs
    are of one class, and each gets an equal part of the target. The paper gives `l2` without the
    factor 1/4, which is that of its reference code.

    l2: weight of the squared norms, at least 0; 0.002.
    temperature: T that divides the scores, above 0; 1 (paper).
    symmetric: add the loss of each positive against all anchors, and halve; false.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 512).
    normalize: L2-normalise the embedding; false (paper); with true, take a temperature near 0.1.
    """

    samples_in_batch = 4  # two pairs

    def __init__(
        self,
        l2: Weight = 0.002,
        temperature: Scale = 1.0,
        symmetric: bool = False,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = False,
    ):
        super().__init__(weight, dim, normalize)
        self.l2 = l2
        self.temperature = temperature
        self.symmetric = symmetric

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        pairs = consecutive_pairs(x, labels)
        value = npair(pairs, self.temperature)
        if self.symmetric:
            swapped = pairs._replace(anchors=pairs.positives, positives=pairs.anchors)
            value = (value + npair(swapped, self.temperature)) / 2
        norms = squared_norms(pairs)
        scores = {"pairs": pairs.valid.sum().float(), "squared_norm": norms.detach() / 2}
        return value + self.l2 / 4 * norms, scores
