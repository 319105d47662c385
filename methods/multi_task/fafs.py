"""Fully-adaptive feature sharing. Lu, Kumar, Zhai, Cheng, Javidi and Feris, Fully-adaptive Feature
Sharing in Multi-Task Networks with Applications in Person Attribute Classification, CVPR 2017,
arXiv 1611.05377."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.awaited import is_awaited
from foundation.distributed import global_sum
from foundation.types import Count, Scale, Weight
from methods.multi_task.affinity import agreement, decayed, labeled, margins
from methods.multi_task.stages import layers_of
from methods.multi_task.tree import Tree, grow, read_tree, shared_tree
from recipes.contract import Context, Declaration, Method
from recipes.networks.network import Network
from recipes.step import Step


class FAFS(Method):
    """A backbone that branches where tasks find different samples difficult: A(t, s) = P(both tasks
    find a sample difficult, or both easy), and from the heads down every stage is split into the
    clusters of branches with the lowest (d - 1) c_l + α · (1 - affinity inside them).

    A run has the columns of its `tree` and measures A: e = 1 - p(true class), difficult if e is
    above its running mean, which does not have the present batch. `recipe=fafs` repeats it: train,
    decide and widen (`fafs_widen.Widen`), until a stage stays whole; then one run to the end. New
    columns are copies, so the function is unchanged at a split. Every round has a new optimizer and
    schedule (as the authors' tool), which know of the new columns as EMA and DDP do. The steps of a
    round, the authors' `max_stall`, are `stages.train.trainer.max_steps`. Ours: the network begins
    as it is, not as a thin copy of a wide one, and any classification task is allowed. Samples
    without labels of both tasks do not count.

    alpha: α, weight of the separation, at least 0; 1 (authors' tool; paper 0 to 4). Larger values
        give more branches; 0 never splits.
    max_columns: most columns of a stage, at least 1; null: one a task (authors: wide over thin
        width).
    unit_cost: c_l of the last stage, above 0; 0.015625 (authors' code). A stage before a halving of
        the picture costs twice that of the stage after it.
    decay: decay λ of the running means, in (0, 1); 0.99 (authors' tool).
    tree: tree.json of the round before; null: all tasks share the whole backbone.
    """

    structure_files = ("tree",)
    declaration = Declaration(
        modalities=("image",),
        tasks_at_least=2,
        slots=("sharing",),
        # of the rounds after the first split
        tags=("features_by_task",),
        refuses={
            "delta": (
                "the columns of the next round are copies of layers, and it would not be copied"
            ),
            "freezes_backbone": (
                "where tasks part makes no difference to a backbone that does not learn; leave one "
                "out"
            ),
        },
    )

    def __init__(
        self,
        alpha: Weight = 1.0,
        max_columns: Count | None = None,
        unit_cost: Scale = 0.015625,
        decay: Annotated[float, Field(gt=0, lt=1)] = 0.99,
        tree: str | None = None,
    ):
        self.alpha = alpha
        self.max_columns = max_columns
        self.unit_cost = unit_cost
        self.decay = decay
        self.tree = tree

    @property
    def option(self) -> str:
        return f"methods.{self.key}.tree"

    def tree_of(self, network: Network) -> Tree:
        """The tree of this run. network: without columns, where no tree is given."""
        tasks = list(network.heads)
        if self.tree is None:
            return shared_tree(network, tasks, self.unit_cost, f"multi_task={self.key}")
        return read_tree(self.tree, tasks, self.option)

    def surgery(self, network: Network) -> None:
        if is_awaited(self.tree):
            return
        if self.tree is not None:
            tree = self.tree_of(network)
            if tree.splits:
                grow(network, tree, list(network.heads), self.option)
        elif not next(network.parameters()).is_meta:
            # a backbone that cannot branch is refused before the first round
            layers_of(network, f"multi_task={self.key}")

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = Affinity(len(context.tasks))

    @torch.no_grad()
    def after_batch(self, step: Step, context: Context) -> None:
        targets = step.inputs["labeled"].targets
        logits = step.outputs["labeled"].logits
        e = torch.stack([margins(logits[task], targets[task]) for task in step.tasks], 1)
        known = torch.stack([labeled(targets[task]) for task in step.tasks], 1)
        self.module(context).add(e, known, self.decay)


class Affinity(nn.Module):
    """Running means over the batches, equal on all ranks. margin: μ, [T]. table: A, [T, T]; with
    the weights of both, which differ by task where labels are missing."""

    margin: Tensor
    margin_weight: Tensor
    table: Tensor
    table_weight: Tensor

    def __init__(self, tasks: int):
        super().__init__()
        self.register_buffer("margin", torch.zeros(tasks))
        self.register_buffer("margin_weight", torch.zeros(tasks))
        self.register_buffer("table", torch.zeros(tasks, tasks))
        self.register_buffer("table_weight", torch.zeros(tasks, tasks))

    def add(self, e: Tensor, known: Tensor, decay: float) -> None:
        """Add a batch. e, known: [N, T] of this rank."""
        seen = known.to(e.dtype)
        sums, counts = global_sum(torch.stack([(e * seen).sum(0), seen.sum(0)]))
        new_margin = sums / counts.clamp_min(1)
        # before the first batch there is no mean: then its own
        means = torch.where(self.margin_weight > 0, self.margin, new_margin)
        same, pairs = global_sum(torch.stack(agreement(e, means, known)))
        new_table = same / pairs.clamp_min(1)
        table, weight = decayed(self.table, self.table_weight, new_table, pairs > 0, decay)
        self.table.copy_(table)
        self.table_weight.copy_(weight)
        margin, weight = decayed(self.margin, self.margin_weight, new_margin, counts > 0, decay)
        self.margin.copy_(margin)
        self.margin_weight.copy_(weight)
