"""Histogram loss. Ustinova and Lempitsky, Learning deep embeddings with histogram loss, NIPS 2016,
arXiv 1611.00822."""

from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Count, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.measures import MASKED, Cosine
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from recipes.contract import Context


def cells(cosine: Tensor, mask: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Below which node each cosine is, int64, and how far above it, in steps: 0 to 1.

    The last cell has the last node, so a cosine of 1 is all there; what is not in the mask is in
    the first. nodes: R, from -1 to 1 in steps of 2 / (R - 1).
    """
    place = (torch.where(mask, cosine, -1.0) + 1).mul_((nodes - 1) / 2)
    cell = place.floor().clamp_(0, nodes - 2)
    return cell.long(), place.sub_(cell)


def sums_at_nodes(cosine: Tensor, mask: Tensor, nodes: int) -> Tensor:
    """How much of each row's pairs is at each node, [b, R]: a pair is shared between the two
    nodes around it, by nearness."""
    cell, above = cells(cosine, mask, nodes)
    sums = cosine.new_zeros(len(cosine), nodes)
    sums.scatter_add_(1, cell, (1 - above) * mask)
    return sums.scatter_add_(1, cell + 1, above * mask)


def anchor_histograms(block: Block, nodes: int) -> Tensor:
    """Of each anchor's positives and negatives, [b, 2, R]."""
    negative = block.negative > -MASKED / 2
    of_positives = sums_at_nodes(block.positive, block.valid, nodes)
    return torch.stack([of_positives, sums_at_nodes(block.negative, negative, nodes)], 1)


def slope_in_cells(at_nodes: Tensor, cosine: Tensor, mask: Tensor) -> Tensor:
    """∂L/∂S of each pair, from ∂L/∂h of the nodes, [R]: the difference of the nodes around it, over
    a step."""
    nodes = len(at_nodes)
    steps = at_nodes.diff() * ((nodes - 1) / 2)
    return steps[cells(cosine, mask, nodes)[0]].mul_(mask)


def histogram(block: Block, nodes: int) -> BlockLoss:
    """Σ_r h⁻_r Σ_{q≤r} h⁺_q, of which an anchor's part is that of its negatives in h⁻.

    h⁺, h⁻: histograms of all positive and all negative pairs, each with the sum 1.
    """
    assert block.own is not None and block.summary is not None  # of the first pass
    sums = block.summary.sum(0)
    counts = sums.sum(1).clamp_min(0.5)
    h_positive, h_negative = (sums / counts[:, None]).unbind()
    below = h_positive.cumsum(0)
    value = (block.own[:, 1] @ below).sum() / counts[1]

    beyond = h_negative.flip(0).cumsum(0).flip(0)  # Σ_{r≥q} h⁻_r = ∂L/∂h⁺_q
    negative = block.negative > -MASKED / 2
    return BlockLoss(
        value,
        slope_in_cells(beyond / counts[0], block.positive, block.valid),
        slope_in_cells(below / counts[1], block.negative, negative),
        active=counts.amin(),
        symmetric=True,
    )


class Histogram(MetricLoss):
    """L = Σ_r h⁻_r Σ_{q≤r} h⁺_q: the probability that a random positive pair is less similar than
    a random negative one, from histograms h⁺ and h⁻ of the cosines.

    It has no margin and no threshold; only the overlap of both distributions counts, and all pairs
    of the batch are compared with all. A pair counts at the two nodes around it, so its gradient is
    their difference: 0 where a node and its neighbor are equal, so batches should be large (paper:
    128 and more). Nodes are at both ends, -1 and 1, in steps of 2 / (R - 1), as in the paper; in
    steps of 2 / R what is beyond the outermost would be lost. Histograms are those of the global
    batch.

    nodes: R, at least 2; 151 (paper).
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128 (paper: 512).
    normalize: L2-normalise the embedding; true; the loss takes cosines either way.
    """

    def __init__(
        self,
        nodes: Annotated[int, Field(ge=2)] = 151,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.nodes = nodes

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        first_pass = partial(anchor_histograms, nodes=self.nodes)
        loss = partial(histogram, nodes=self.nodes)
        return sum_over_anchors(Cosine(), loss, x, labels, summary=first_pass)[0], {}
