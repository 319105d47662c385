"""Batches of whole clusters, for losses on clusters that a run finds anew while it trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datamodules.samplers import Blocks, LiveOrder, class_labels, some_of
from foundation.errors import UserError
from foundation.randomness import generator

ClusterSampling = Literal["losses", "uniform"]


@dataclass(frozen=True)
class Clusters:
    """The clusters of a stream's samples, on the host.

    cluster: int64 [M], of each position; -1: in none.
    centers: [K, d]. class_of: int64 [K], the class of each cluster.
    mean_loss: [K], at least 0.
    """

    cluster: Tensor
    centers: Tensor
    class_of: Tensor
    mean_loss: Tensor


Newest = Callable[[], Clusters | None]


class ClusterOrder(Blocks):
    """Endless batches of M clusters with D samples each, cluster by cluster.

    The first cluster of a batch is drawn in proportion to its mean loss, uniformly where no loss is
    above 0. The others are its nearest impostors: clusters of other classes, by their centers;
    then, where these are too few, the nearest of its own class, and then all of them again. With
    `uniform` all M are drawn.

    A cluster with fewer than D samples repeats all of them, shuffled. A batch is a pure function of
    its number and of the clusters, which `renew` replaces.
    """

    def __init__(
        self,
        clusters: Clusters,
        clusters_in_batch: int,
        samples_per_cluster: int,
        sampling: ClusterSampling,
        *key: object,
    ):
        super().__init__()
        self.clusters_in_batch = clusters_in_batch
        self.samples_per_cluster = samples_per_cluster
        self.sampling = sampling
        self.key = key
        self.length = clusters_in_batch * samples_per_cluster
        self.renew(clusters)

    def renew(self, clusters: Clusters) -> None:
        """Make all further batches from these clusters."""
        self._number = -1  # the batch in memory is of the clusters before
        self.clusters = clusters
        counts = torch.bincount(clusters.cluster + 1, minlength=len(clusters.class_of) + 1)
        by_cluster = clusters.cluster.argsort(stable=True)
        self.members = by_cluster.split(counts.tolist())[1:]
        self.filled = (counts[1:] > 0).nonzero().flatten()
        losses = clusters.mean_loss[self.filled].double()
        if not bool((losses > 0).any()):
            losses = torch.ones_like(losses)
        self.edges = losses.cumsum(0)

    def of(self, clusters: Clusters | None) -> "ClusterOrder":
        """The order with these clusters, or those it has."""
        if clusters is not None and clusters is not self.clusters:
            self.renew(clusters)
        return self

    def block(self, number: int) -> Tensor:
        """int64 [M · D]: positions of the samples of batch `number`."""
        source = generator(*self.key, number)
        chosen = self.uniform(source) if self.sampling == "uniform" else self.neighborhood(source)
        repeats = -(-self.clusters_in_batch // len(chosen))
        chosen = chosen.repeat(repeats)[: self.clusters_in_batch]
        return torch.cat(
            [some_of(self.members[c], self.samples_per_cluster, source) for c in chosen.tolist()]
        )

    def uniform(self, source: torch.Generator) -> Tensor:
        """Clusters in random order."""
        return self.filled[torch.randperm(len(self.filled), generator=source)]

    def neighborhood(self, source: torch.Generator) -> Tensor:
        """A cluster drawn by its loss, and all others, its nearest impostors first."""
        draw = torch.rand((), generator=source, dtype=torch.float64) * self.edges[-1]
        place = int(torch.searchsorted(self.edges, draw, right=True))
        first = self.filled[min(place, len(self.filled) - 1)]
        others = self.filled[self.filled != first]
        centers = self.clusters.centers
        distance = (centers[others] - centers[first]).square().sum(1)
        others = others[distance.argsort(stable=True)]
        classes = self.clusters.class_of
        same_class = classes[others] == classes[first]
        others = others[same_class.long().argsort(stable=True)]
        return torch.cat([first[None], others])


@dataclass(frozen=True)
class MakeClusterOrder:
    """Makes the order of a stream, in which every class is one cluster until there are others.

    task: the task whose classes have the clusters, None for the first. clusters: most of a class.
    newest: the present clusters, None before there are any. key: the method's key, for messages.

    Raises UserError if the batch is not M · D, or the data cannot have M clusters.
    """

    clusters: int
    clusters_in_batch: int
    samples_per_cluster: int
    sampling: ClusterSampling = "losses"
    newest: Newest = lambda: None
    task: str | None = None
    key: str = "magnet"

    def __call__(
        self, targets: Mapping[str, Tensor], batch_size: int, total: int, seed: int, stream: str
    ) -> LiveOrder:
        labels = class_labels(targets, self.task, self.key)
        self.check_batch(batch_size)
        _, sizes = torch.unique(labels[labels >= 0], return_counts=True)
        most = int(sizes.clamp_max(self.clusters).sum())
        if most < self.clusters_in_batch:
            raise UserError(
                f"methods.{self.key}.clusters_in_batch={self.clusters_in_batch}: the labeled data "
                f"has {len(sizes)} classes, and with methods.{self.key}.clusters={self.clusters} "
                f"at most {most} clusters; expected at most {most}"
            )
        order = ClusterOrder(
            classes_as_clusters(labels),
            self.clusters_in_batch,
            self.samples_per_cluster,
            self.sampling,
            seed,
            "order",
            stream,
        )
        return LiveOrder(lambda: order.of(self.newest()))

    def check_batch(self, batch_size: int) -> None:
        """Before data are read."""
        m, d = self.clusters_in_batch, self.samples_per_cluster
        if batch_size != m * d:
            option = f"methods.{self.key}"
            raise UserError(
                f"data.batch_size={batch_size}: a batch has {option}.clusters_in_batch={m} "
                f"clusters with {option}.samples_per_cluster={d} samples each; "
                f"expected data.batch_size={m * d}"
            )


def classes_as_clusters(labels: Tensor) -> Clusters:
    """One cluster a class, all in one place. labels: int64 [M], -1 for none."""
    classes = int(labels.max()) + 1 if len(labels) else 0
    return Clusters(labels, torch.zeros(classes, 1), torch.arange(classes), torch.zeros(classes))
