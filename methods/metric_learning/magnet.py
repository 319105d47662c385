"""Magnet loss. Rippel, Paluri, Dollar and Bourdev, Metric learning with adaptive density
discrimination, ICLR 2016, arXiv 1511.05939."""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from datamodules.cluster_order import Clusters, ClusterSampling, MakeClusterOrder
from foundation.distributed import gather_rows, gather_with_gradient, own_rows
from foundation.randomness import derive_seed
from foundation.types import Count, Weight
from methods.metric_learning.cluster_table import ClusterTable
from methods.metric_learning.members import count_labeled
from methods.metric_learning.metric import MetricLoss, Scores, pair_scores
from methods.metric_learning.pairwise import masked_log_sum
from methods.metric_learning.surveys import every, survey_embeddings, surveyed_rows
from recipes.contract import Context, Declaration, Survey
from recipes.contract.survey import Table
from recipes.networks.embedding import EMBEDDING
from recipes.services.clustering import kmeans_within
from recipes.step import Step

SMALLEST_VARIANCE = 1e-12


def magnet(
    x: Tensor, labels: Tensor, clusters: Tensor, count: int, alpha: float, hinge: bool = True
) -> Tensor:
    """The loss of each sample, [B]:

        [ ‖x - μ‖² / 2σ² + α + log Σ_m exp(-‖x - μ_m‖² / 2σ²) ]+

    over clusters m of other classes; 0 where there are none. μ is the mean of a cluster's samples
    in the batch, σ² = Σ ‖x - μ‖² / (B - 1); the gradient goes through both.

    x: [B, d]. labels: [B], -1 for samples that do not count. clusters: int64 [B] below `count`,
    each of one class. hinge: whether there is a []+.
    """
    known = labels >= 0
    member = (clusters == torch.arange(count, device=x.device)[:, None]) & known  # [M, B]
    sizes = member.sum(1, keepdim=True)
    means = member.to(x) @ x / sizes.clamp_min(1)

    own = (x - means[clusters]).square().sum(1) * known
    variance = own.sum() / (known.sum() - 1).clamp_min(1)
    scale = -1 / (2 * variance.clamp_min(SMALLEST_VARIANCE))
    to_all = (x[:, None] - means).square().sum(2)

    class_of = torch.where(member, labels, -1).amax(1)
    impostor = (class_of != labels[:, None]) & (class_of >= 0) & known[:, None]
    losses = alpha - own * scale + masked_log_sum(to_all * scale, impostor)
    if hinge:
        losses = losses.clamp_min(0)
    return torch.where(impostor.any(1), losses, 0)


class Magnet(MetricLoss):
    """L = mean of [‖x - μ‖² / 2σ² + α + log Σ_m exp(-‖x - μ_m‖² / 2σ²)]+, over the clusters m of
    other classes in the batch: a sample is near its own cluster, and those of others are far.

    Each class has k clusters, found by k-means among the embeddings of its samples in a survey, so
    that a class may have several modes. A batch has M clusters with D samples each: a first one,
    drawn in proportion to its mean loss, and its nearest impostors, clusters of other classes. μ is
    the mean of a cluster's samples in the batch, σ² their variance around it; the gradient goes
    through both, and the scale of embeddings does not matter. Mean losses are those that the
    samples had when last seen before the survey, so that batches depend on the survey alone: a
    resumed run has the same. Clusters of one class in a batch do not repel each other. On several
    ranks M should divide by their number: every rank then has whole clusters. The paper classifies
    by the nearest clusters; here retrieval and the heads are evaluated as for any other loss.
    Logged as `active`: the share of samples above 0.

    When classes have several modes, or their parts should stay apart. Owns the order of the labeled
    samples: `pk` is not needed. Before the network tells classes apart clusters say little; a
    pretrained one helps.

    clusters: clusters k of a class, at least 1; 8 (unconfirmed; tuned per set in the paper).
    clusters_in_batch: clusters M of a batch, at least 2; 8. A batch has M · D samples,
        and any other `data.batch_size` is refused.
    samples_per_cluster: samples D of each cluster, at least 2; 8. A cluster with fewer samples
        repeats them.
    alpha: margin α, at least 0; 1 (unconfirmed).
    hinge: the []+; true (paper); false: its terms may be below 0, as some surveys print it.
    cluster_sampling: how a batch gets its clusters: `losses` (paper), a first one by its loss and
        its impostors; `uniform`, all drawn uniformly.
    refresh: optimizer steps between surveys; null: one pass over the labeled samples. The first one
        is made before the first step.
    task: task whose classes have clusters, and whose labels the loss takes; null: the first.
    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding; false (paper).
    """

    def __init__(
        self,
        clusters: Count = 8,
        clusters_in_batch: Annotated[int, Field(ge=2)] = 8,
        samples_per_cluster: Annotated[int, Field(ge=2)] = 8,
        alpha: Weight = 1.0,
        hinge: bool = True,
        cluster_sampling: ClusterSampling = "losses",
        refresh: Count | None = None,
        task: str | None = None,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = False,
    ):
        super().__init__(weight, dim, normalize)
        self.clusters = clusters
        self.clusters_in_batch = clusters_in_batch
        self.samples_per_cluster = samples_per_cluster
        self.alpha = alpha
        self.hinge = hinge
        self.cluster_sampling = cluster_sampling
        self.refresh = refresh
        self.task = task
        # the registered module, for the order, which gets no context
        self._table: ClusterTable | None = None

    def declare(self) -> Declaration:
        order = MakeClusterOrder(
            self.clusters,
            self.clusters_in_batch,
            self.samples_per_cluster,
            self.cluster_sampling,
            self.newest_clusters,
            self.task,
            self.key,
        )
        return replace(
            super().declare(),
            slots=("sampler",),
            orders={"labeled": order},
            surveys=(survey_embeddings(every(self.refresh)),),
        )

    def build(self, context: Context) -> None:
        classes = context.tasks[self.task_of(context)].outputs
        self._table = ClusterTable(
            context.sizes["labeled"],
            context.sizes["unlabeled"],
            classes,
            self.clusters,
            self.dim,
        )
        context.method_modules[self.key] = self._table

    def task_of(self, context: Context) -> str:
        return self.task or next(iter(context.tasks))

    # -- clusters ----------------------------------------------------------------------------------
    def surveyed(self, survey: Survey, table: Table, context: Context) -> None:
        x, labels = surveyed_rows(table, self.task_of(context))
        seed = derive_seed(context.seed, self.key, context.trainer.global_step)
        cluster = kmeans_within(x, labels, self.clusters, seed=seed)
        self.module(context).renew(x, cluster, table["index"])

    def newest_clusters(self) -> Clusters | None:
        return None if self._table is None else self._table.newest()

    # -- in a step ---------------------------------------------------------------------------------
    def terms(self, step: Step, context: Context) -> None:
        task = self.task_of(context)
        x = step.outputs["labeled/weak"].logits[EMBEDDING]
        with torch.autocast(x.device.type, enabled=False):
            x = gather_with_gradient(x.float())
            labels = gather_rows(step.streams["labeled"].targets[task])
            losses = self.losses(x, labels)
            value = losses.sum() / count_labeled(labels)
            step.term(self.key, value, weight=self.weight, task=task)
            active = (losses.detach() > 0).sum() / count_labeled(labels)
            scores = {"active": active, **pair_scores(x, labels)}
        for name, score in scores.items():
            step.scalar(name, score)
        step.scratch[self.key] = own_rows(losses.detach())

    def losses(self, x: Tensor, labels: Tensor) -> Tensor:
        """Of the samples of a global batch, which has its clusters one after the other."""
        cluster = torch.arange(len(x), device=x.device) // self.samples_per_cluster
        count = -(-len(x) // self.samples_per_cluster)
        return magnet(x, labels, cluster, count, self.alpha, self.hinge)

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        return self.losses(x, labels).sum() / count_labeled(labels), {}

    def after_batch(self, step: Step, context: Context) -> None:
        losses = step.scratch[self.key]
        labels = step.streams["labeled"].targets[self.task_of(context)]
        memory = self.module(context).losses
        memory.write(step.streams["labeled"].index, losses, where=labels >= 0)
