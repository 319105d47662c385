"""Hierarchical triplet loss. Ge, Huang, Dong and Scott, Deep metric learning with hierarchical
triplet loss, ECCV 2018, arXiv 1810.06951."""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize as unit_rows

from datamodules.neighbor_order import ClassPlaces, MakeNeighborOrder
from foundation.errors import UserError
from foundation.types import Count, StepsOrShare, Weight
from methods.metric_learning.blocks import Block, BlockLoss
from methods.metric_learning.class_tree import (
    ClassMeans,
    lowest_common_level,
    nodes,
    thresholds,
)
from methods.metric_learning.measures import Distance, SquaredDistance
from methods.metric_learning.metric import MetricLoss, Scores
from methods.metric_learning.pair_gradients import sum_over_anchors
from methods.metric_learning.surveys import HostCopy, every, survey_embeddings, surveyed_rows
from methods.metric_learning.triplet import all_triplets
from recipes.contract import Context, Declaration, Survey
from recipes.contract.survey import Table


class ClassTree(nn.Module):
    """The tree of a task's classes; before the first survey all margins are one constant.

    known: bool, whether there is a tree. node: int64 [C, L + 1]. limits: [L + 1]. spread: [C], the
    s of each class. means: [C, d], of unit vectors.
    """

    known: Tensor
    node: Tensor
    limits: Tensor
    spread: Tensor
    means: Tensor

    def __init__(self, classes: int, levels: int, dim: int):
        super().__init__()
        self.register_buffer("known", torch.tensor(False))
        self.register_buffer("node", torch.zeros(classes, levels + 1, dtype=torch.int64))
        self.register_buffer("limits", torch.zeros(levels + 1))
        self.register_buffer("spread", torch.zeros(classes))
        self.register_buffer("means", torch.zeros(classes, dim))
        self.host_copy: HostCopy[ClassPlaces | None] = HostCopy()

    @torch.no_grad()
    def grow(self, x: Tensor, labels: Tensor) -> None:
        """Replace the tree by that of embeddings [N, d] with labels [N], -1 for none."""
        found = ClassMeans.of(x, labels, len(self.spread))
        limits = thresholds(found.base(), len(self.limits) - 1)
        there = found.counts > 0
        node = torch.zeros_like(self.node, device="cpu")
        node[there] = nodes(found.means[there], limits)
        self.node.copy_(node)
        self.limits.copy_(limits)
        self.spread.copy_(found.spreads())
        self.means.copy_(found.means)
        self.known.fill_(True)

    def newest(self) -> ClassPlaces | None:
        """None before there is a tree."""
        return self.host_copy.of(self.known, self.read)

    def read(self) -> ClassPlaces | None:
        return ClassPlaces(self.means.cpu(), self.node[:, 0].cpu()) if bool(self.known) else None

    def margins(self, anchors: Tensor, negatives: Tensor, beta: float, plain: float) -> Tensor:
        """α = β + d_H(a,n) - s_a, [n, m], of classes [n] and [m]; `plain` without a tree."""
        level = lowest_common_level(self.node[anchors], self.node[negatives])
        margins = beta + self.limits[level] - self.spread[anchors][:, None]
        return torch.where(self.known, margins, plain)


def triplets_with_margins(block: Block, margins: Tensor) -> BlockLoss:
    """Σ over all triplets of [d_ap - d_an + α_an]+, margins: α, [b, R] of the block's anchors and
    all references."""
    nearer = block._replace(negative=block.negative - margins)
    return all_triplets(nearer, 0.0)


class HierarchicalTriplet(MetricLoss):
    """L = 1/(2 |T|) Σ_T [D_ap - D_an + α]+ with the dynamic margin α = β + d_H(a,n) - s_a: classes
    that are far apart in the tree of all classes are to stay farther apart.

    A survey of the labeled samples gives the mean squared distance of all classes and, in each, s.
    Classes closer than d_0 = mean s are one node at level 0 of the tree; the limits d_l of further
    levels rise to 4, the largest distance. H is the lowest level at which the classes of anchor and
    negative are one node. Batches have random anchor classes, each with its nearest classes, so
    that the hard negatives are in them. Margins take no gradient and may be below 0, for wide
    classes. A class with one sample has the mean s. Logged as `active`: the share of the triplets
    above 0.

    When there are many classes, some of them alike; needs a network that tells them apart already:
    pretrained, or warmed up. Owns the order of the labeled samples: `pk` is not needed.

    beta: β, part of each margin; 0.1 (paper).
    levels: levels L above 0 of the tree, at least 1; 16 (paper, unconfirmed).
    warmup: steps with plain triplets before the first tree, below 1 a share of the run. Their
        classes are random. 0: the tree is made at the start, for pretrained networks.
    margin: constant margin of the plain triplets of the warm-up, at least 0; 0.2 (FaceNet).
    refresh: optimizer steps between trees; null: one pass over the labeled samples (paper).
    anchors: anchor classes of a batch, at least 1; 4. A batch has anchors · neighbors ·
        samples_per_class samples, and any other `data.batch_size` is refused.
    neighbors: classes of an anchor, itself and its nearest; 4.
    samples_per_class: samples of each class, at least 2; 4.
    task: task whose classes order the samples; null: the first. Every task has a tree.
    squared: D = ‖·‖²; false: ‖·‖, as some notes on the paper print it. Margins, made of squared
        distances, can then not be met by far classes.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; true; the loss takes unit vectors either way.
    """

    def __init__(
        self,
        beta: Weight = 0.1,
        levels: Count = 16,
        warmup: StepsOrShare = 0.1,
        margin: Weight = 0.2,
        refresh: Count | None = None,
        anchors: Count = 4,
        neighbors: Count = 4,
        samples_per_class: Annotated[int, Field(ge=2)] = 4,
        task: str | None = None,
        squared: bool = True,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        if anchors * neighbors < 2:
            raise UserError(
                "methods.hierarchical_triplet.anchors=1",
                "a batch of one class has no negatives",
                "expected neighbors of at least 2",
            )
        self.beta = beta
        self.levels = levels
        self.warmup = warmup
        self.margin = margin
        self.refresh = refresh
        self.anchors = anchors
        self.neighbors = neighbors
        self.samples_per_class = samples_per_class
        self.task = task
        self.squared = squared
        # the registered modules, for the order, which gets no context
        self._trees: nn.ModuleDict | None = None

    def declare(self) -> Declaration:
        order = MakeNeighborOrder(
            self.anchors,
            self.neighbors,
            self.samples_per_class,
            self.newest_places,
            self.task,
            self.key,
        )
        return replace(
            super().declare(),
            slots=("sampler",),
            orders={"labeled": order},
            surveys=(survey_embeddings(every(self.refresh, self.warmup)),),
        )

    def build(self, context: Context) -> None:
        trees = nn.ModuleDict()
        for name, task in context.tasks.items():
            trees[name] = ClassTree(task.outputs, self.levels, self.dim)
        self._trees = trees
        context.method_modules[self.key] = trees

    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        for task, tree in self.module(context).items():
            tree.grow(*surveyed_rows(table, task))

    def newest_places(self) -> ClassPlaces | None:
        if self._trees is None:
            return None
        tree = self._trees[self.task or next(iter(self._trees))]
        return tree.newest()  # type: ignore[operator,no-any-return]

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        tree: ClassTree = self.module(context)[task]
        classes = labels.clamp_min(0)

        def of_block(block: Block) -> BlockLoss:
            anchors = classes[block.rows]
            return triplets_with_margins(
                block, tree.margins(anchors, classes, self.beta, self.margin)
            )

        measure = SquaredDistance() if self.squared else Distance()
        total, counts = sum_over_anchors(measure, of_block, unit_rows(x, dim=1), labels)
        active, triplets = counts.unbind()
        count = triplets.clamp_min(1)
        return total / (2 * count), {"active": active / count}
