"""The clusters of every class, and the losses by which they are drawn."""

import torch
from torch import Tensor, nn

from datamodules.cluster_order import Clusters
from methods.metric_learning.surveys import HostCopy
from recipes.services.statistics import SampleMemory


class ClusterTable(nn.Module):
    """What the last survey found, and the last loss of each sample.

    cluster: int64 [M], by position in the labeled stream; -1: none. centers: [C · k, d], and
    mean_loss: [C · k], of the clusters c · k … c · k + k - 1 of each class c. losses: of samples,
    by their stable number.
    """

    cluster: Tensor
    centers: Tensor
    mean_loss: Tensor
    losses: SampleMemory

    def __init__(self, samples: int, numbers: int, classes: int, per_class: int, dim: int):
        super().__init__()
        self.per_class = per_class
        clusters = classes * per_class
        self.register_buffer("cluster", torch.full((samples,), -1))
        self.register_buffer("centers", torch.zeros(clusters, dim))
        self.register_buffer("mean_loss", torch.zeros(clusters))
        self.losses = SampleMemory(numbers)
        self.host_copy: HostCopy[Clusters | None] = HostCopy()

    @torch.no_grad()
    def renew(self, x: Tensor, cluster: Tensor, index: Tensor) -> None:
        """x: embeddings [M, d] on the host, cluster: int64 [M], index: [M], stable numbers."""
        known = cluster >= 0
        centers = mean_by_cluster(x[known], cluster[known], len(self.centers))[0]
        numbers = index[known].to(self.cluster.device)
        losses = self.losses.read(numbers).cpu()
        seen = (self.losses.writes[numbers] > 0).cpu()
        self.cluster.copy_(cluster)
        self.centers.copy_(centers)
        self.mean_loss.copy_(losses_of_clusters(losses, cluster[known], seen, len(centers)))

    def newest(self) -> Clusters | None:
        """None before the first survey."""
        return self.host_copy.of(self.cluster, self.read)

    def read(self) -> Clusters | None:
        cluster = self.cluster.cpu()
        if not bool((cluster >= 0).any()):
            return None
        count = len(self.centers)
        class_of = torch.arange(count) // self.per_class
        return Clusters(cluster, self.centers.cpu(), class_of, self.mean_loss.cpu())


def mean_by_cluster(x: Tensor, cluster: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The means of rows by cluster, [count, …], 0 where there are none; and how many there are."""
    sizes = torch.bincount(cluster, minlength=count)
    sums = x.new_zeros(count, *x.shape[1:]).index_add_(0, cluster, x)
    return sums / sizes.clamp_min(1).view(-1, *[1] * (x.ndim - 1)), sizes


def losses_of_clusters(losses: Tensor, cluster: Tensor, seen: Tensor, count: int) -> Tensor:
    """The mean loss of each cluster's seen samples, [count]; of a cluster without one the mean over
    those with. losses, cluster, seen: [N]."""
    means, sizes = mean_by_cluster(losses[seen].clamp_min(0), cluster[seen], count)
    there = sizes > 0
    usual = means[there].mean() if bool(there.any()) else 0.0
    return torch.where(there, means, usual)
