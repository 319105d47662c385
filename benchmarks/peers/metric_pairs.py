"""The losses of `metric_losses.py`: ours and the peer's of the same mining, and the data that both
are given."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from methods.metric_learning.angular import Angular
from methods.metric_learning.batch_hard_triplet import BatchHardTriplet
from methods.metric_learning.circle import Circle
from methods.metric_learning.contrastive import Contrastive
from methods.metric_learning.histogram import Histogram
from methods.metric_learning.lifted_structure import LiftedStructure
from methods.metric_learning.metric import MetricLoss
from methods.metric_learning.multi_similarity import MultiSimilarity
from methods.metric_learning.proxy_anchor import proxy_anchor
from methods.metric_learning.proxy_nca_pp import proxy_nca_pp
from methods.metric_learning.soft_nearest_neighbor import SoftNearestNeighbor
from methods.metric_learning.triplet import Triplet
from methods.metric_learning.xbm import XBM, Memory

try:
    from pytorch_metric_learning import distances, losses, miners, reducers
except ImportError:
    losses = None

PER_CLASS, STORED = 4, 1024
NODES = 151
TOLERANCE = 1e-8
Loss = Callable[..., Tensor]  # of the embeddings, and the proxies where there are some


@dataclass
class Data:
    """x: [B, d] unit vectors, labels: [B], proxies: [C, d], half of them of classes that the batch
    lacks; a memory.

    Cosines within a class are about 0.2 and overlap with the others', so that miners find something
    at every size."""

    x: Tensor
    labels: Tensor
    proxies: Tensor
    stored: Tensor
    stored_labels: Tensor

    @classmethod
    def drawn(
        cls, rows: int, dim: int, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Data":
        source = torch.Generator().manual_seed(rows + dim)
        classes = rows // PER_CLASS

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=source, dtype=torch.float64)

        centres = normalize(normal(2 * classes, dim), dim=1)

        def near(labels: Tensor) -> Tensor:
            noise = 2 * normal(len(labels), dim) / dim**0.5
            return normalize(centres[labels] + noise, dim=1).to(device, dtype)

        labels = torch.arange(rows)[torch.randperm(rows, generator=source)] // PER_CLASS
        stored = torch.randint(classes, (STORED,), generator=source)
        proxies = (centres + 0.1 * normal(*centres.shape)).to(device, dtype)
        return cls(near(labels), labels.to(device), proxies, near(stored), stored.to(device))

    def inputs(self, proxies: bool) -> list[Tensor]:
        values = [self.x, self.proxies] if proxies else [self.x]
        return [value.clone().requires_grad_() for value in values]


def method(loss: MetricLoss) -> Callable[[Data], Loss]:
    return lambda data: lambda x: loss.loss(x, data.labels, "label", None)[0]


def with_memory(data: Data) -> Loss:
    xbm = XBM(options={"epsilon": None}, size=STORED, dim=data.x.shape[1], start=0)
    memory = Memory(STORED, data.x.shape[1], 1).to(data.x)
    memory.labels = memory.labels.to(data.labels)
    memory.enqueue(data.stored, data.stored_labels[None])
    xbm.key = "xbm"
    recipe: Any = SimpleNamespace(method_modules={"xbm": memory}, tasks={"label": None})
    recipe.trainer = SimpleNamespace(global_step=1)
    recipe.total_steps = 1
    return lambda x: xbm.loss(x, data.labels, "label", recipe)[0]


def euclidean(power: int = 1) -> Any:
    return distances.LpDistance(power=power, normalize_embeddings=False)


def mined(make: Callable[[], Any], miner: Callable[[], Any] | None = None) -> Callable[..., Loss]:
    def of(data: Data) -> Loss:
        loss, labels = make(), data.labels
        if miner is None:
            return lambda x: loss(x, labels)
        choose = miner()
        return lambda x: loss(x, labels, choose(x, labels))

    return of


def with_proxies(name: str, **settings: float) -> Callable[[Data], Loss]:
    """A loss of the peer that takes its proxies as an argument, as ours do."""

    def of(data: Data) -> Loss:
        classes, dim = data.proxies.shape
        loss = getattr(losses, name)(num_classes=classes, embedding_size=dim, **settings).to(data.x)

        def call(x: Tensor, proxies: Tensor) -> Tensor:
            del loss.proxies
            loss.proxies = proxies
            return loss(x, data.labels)

        del loss._parameters["proxies"]
        loss.proxies = data.proxies
        loss.cast_types = lambda dtype, device: None
        return call

    return of


def their_memory(data: Data) -> Loss:
    loss = similarity()
    stored = {"ref_emb": data.stored, "ref_labels": data.stored_labels}
    return lambda x: loss(x, data.labels) + loss(x, data.labels, **stored)


def similarity() -> Any:
    return losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)


def of_unit_rows(make: Callable[[Data], Loss]) -> Callable[[Data], Loss]:
    """The loss of x / ‖x‖, for a peer that normalizes only a part of what it compares."""

    def of(data: Data) -> Loss:
        loss = make(data)
        return lambda x: loss(normalize(x, dim=1))

    return of


def lifted(name: str) -> Callable[[], Any]:
    return lambda: getattr(losses, name)(neg_margin=1, pos_margin=0, distance=euclidean())


@dataclass
class Pair:
    """Ours and the peer's loss of one data.

    most: batch size up to which the peer is tried.
    apart: by how much value and gradient in float64 may differ, relative to the largest entry.
    """

    ours: Callable[[Data], Loss]
    peer: Callable[[Data], Loss]
    most: int = 10**9
    apart: float = TOLERANCE
    proxies: bool = False


def triplets(distance: Any, margin: float = 0.2, **more: Any) -> Any:
    return losses.TripletMarginLoss(margin=margin, distance=distance, **more)


def mean_triplets() -> Any:
    return triplets(euclidean(), margin=0.3, reducer=reducers.MeanReducer())


def soft_triplets() -> Any:
    return triplets(euclidean(), margin=0, smooth_loss=True)


def semi_hard() -> Any:
    settings = {"margin": 0.2, "type_of_triplets": "semihard"}
    return miners.TripletMarginMiner(**settings, distance=euclidean())


HARD = Triplet(0.3, "batch_hard", squared=False)
ALL_SEMI_HARD = Triplet(0.2, "semi_hard_all", squared=False)
PAIRS = {
    "triplet, all": Pair(method(Triplet(0.2)), mined(lambda: triplets(euclidean(2))), 512),
    "triplet, batch hard": Pair(
        method(HARD), mined(mean_triplets, lambda: miners.BatchHardMiner(distance=euclidean()))
    ),
    "triplet, all semi-hard": Pair(
        method(ALL_SEMI_HARD), mined(lambda: triplets(euclidean()), semi_hard), 512
    ),
    "triplet, batch hard, soft margin": Pair(
        method(BatchHardTriplet()),
        mined(soft_triplets, lambda: miners.BatchHardMiner(distance=euclidean())),
    ),
    "contrastive": Pair(
        method(Contrastive(power=1)), mined(lambda: losses.ContrastiveLoss(distance=euclidean()))
    ),
    "circle": Pair(method(Circle()), mined(lambda: losses.CircleLoss(m=0.4, gamma=80))),
    "angular": Pair(
        of_unit_rows(method(Angular(alpha=40))),
        of_unit_rows(mined(lambda: losses.AngularLoss(alpha=40))),
        512,
    ),
    "soft nearest neighbor": Pair(
        method(SoftNearestNeighbor(0.5)),
        mined(lambda: losses.NCALoss(softmax_scale=2, distance=euclidean(2))),
    ),
    "histogram": Pair(
        of_unit_rows(method(Histogram(NODES))),
        of_unit_rows(mined(lambda: losses.HistogramLoss(n_bins=NODES - 1))),
        128,
        apart=1e-4,  # the peer's step between nodes is a float32
    ),
    "multi-similarity, mined": Pair(
        method(MultiSimilarity()),
        mined(similarity, lambda: miners.MultiSimilarityMiner(epsilon=0.1)),
    ),
    "multi-similarity": Pair(method(MultiSimilarity(epsilon=None)), mined(similarity)),
    "proxy-anchor": Pair(
        lambda data: lambda x, proxies: proxy_anchor(x, data.labels, proxies, 32.0, 0.1),
        with_proxies("ProxyAnchorLoss", margin=0.1, alpha=32),
        proxies=True,
    ),
    "proxy-nca++": Pair(
        lambda data: lambda x, proxies: proxy_nca_pp(x, data.labels, proxies, 1 / 9),
        with_proxies("ProxyNCALoss", softmax_scale=9),
        proxies=True,
    ),
    "lifted structure": Pair(method(LiftedStructure()), mined(lifted("LiftedStructureLoss")), 128),
    "lifted structure, generalized": Pair(
        method(LiftedStructure(variant="generalized")),
        mined(lifted("GeneralizedLiftedStructureLoss")),
    ),
    "xbm, multi-similarity": Pair(with_memory, their_memory),
}
