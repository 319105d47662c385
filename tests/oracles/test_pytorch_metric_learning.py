"""Losses, the memory term and the measures of retrieval against pytorch-metric-learning, in
float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from methods.metric_learning.angular import Angular
from methods.metric_learning.circle import Circle
from methods.metric_learning.contrastive import Contrastive
from methods.metric_learning.histogram import Histogram
from methods.metric_learning.lifted_structure import LiftedStructure
from methods.metric_learning.multi_similarity import MultiSimilarity
from methods.metric_learning.npair import NPair
from methods.metric_learning.proxy_nca_pp import proxy_nca_pp
from methods.metric_learning.ranked_list import RankedList
from methods.metric_learning.soft_nearest_neighbor import SoftNearestNeighbor
from methods.metric_learning.triplet import Triplet
from methods.metric_learning.xbm import XBM
from tests.recipes.evaluation.test_retrieval import measured, sample
from tests.support.comparison import installed, same
from tests.support.metric_batches import (
    batch,
    filled_memory,
    of,
    proxy_anchor_loss,
    running,
)


def theirs(module: str, name: str, **arguments: Any) -> Any:
    return getattr(installed(f"pytorch_metric_learning.{module}"), name)(**arguments)


def euclidean(power: int = 1) -> Any:
    """Their distances normalise, unless told."""
    return theirs("distances", "LpDistance", power=power, normalize_embeddings=False)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("margin", [0.05, 0.5])
def test_triplets(squared, margin):
    x, labels = batch(4)
    x = F.normalize(x, dim=1)
    peer = theirs(
        "losses", "TripletMarginLoss", margin=margin, distance=euclidean(2 if squared else 1)
    )
    same(lambda z: of(Triplet(margin, squared=squared), z, labels), lambda z: peer(z, labels), x)


@pytest.mark.parametrize("soft", [True, False])
def test_batch_hard_triplets(soft):
    x, labels = batch(5)
    margin = 0.0 if soft else 0.4
    reducer = theirs("reducers", "MeanReducer")
    settings = {"margin": margin, "smooth_loss": soft, "distance": euclidean(), "reducer": reducer}
    peer = theirs("losses", "TripletMarginLoss", **settings)
    miner = theirs("miners", "BatchHardMiner", distance=euclidean())
    method = Triplet(margin, "batch_hard", soft=soft, squared=False, normalize=False)
    same(lambda z: of(method, z, labels), lambda z: peer(z, labels, miner(z, labels)), x)


@pytest.mark.parametrize("seed", range(3))
def test_all_semi_hard_triplets(seed):
    """Their semi-hard miner keeps every such triplet, where FaceNet takes one a pair."""
    x, labels = batch(seed)
    x = F.normalize(x, dim=1)
    peer = theirs("losses", "TripletMarginLoss", margin=0.5, distance=euclidean())
    miner = theirs(
        "miners",
        "TripletMarginMiner",
        margin=0.5,
        type_of_triplets="semihard",
        distance=euclidean(),
    )
    method = Triplet(0.5, "semi_hard_all", squared=False)
    same(lambda z: of(method, z, labels), lambda z: peer(z, labels, miner(z, labels)), x)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("variant", "name"),
    [("smooth", "LiftedStructureLoss"), ("generalized", "GeneralizedLiftedStructureLoss")],
)
def test_lifted_structure(variant, name, seed):
    x, labels = batch(seed)
    peer = theirs("losses", name, neg_margin=1, pos_margin=0, distance=euclidean())
    same(lambda z: of(LiftedStructure(variant=variant), z, labels), lambda z: peer(z, labels), x)


@pytest.mark.parametrize("seed", range(3))
def test_multi_similarity_mined_and_unmined(seed):
    x, labels = batch(seed)
    peer = theirs("losses", "MultiSimilarityLoss", alpha=2, beta=50, base=0.5)
    miner = theirs("miners", "MultiSimilarityMiner", epsilon=0.1)
    same(lambda z: of(MultiSimilarity(), z, labels), lambda z: peer(z, labels, miner(z, labels)), x)
    same(lambda z: of(MultiSimilarity(epsilon=None), z, labels), lambda z: peer(z, labels), x)


@pytest.mark.parametrize("seed", range(3))
def test_contrastive(seed):
    """Theirs normalises, and each side is a mean over what is above 0, without squares."""
    x, labels = batch(seed)
    x = F.normalize(x, dim=1)
    peer = theirs("losses", "ContrastiveLoss", distance=euclidean())
    same(lambda z: of(Contrastive(power=1), z, labels), lambda z: peer(z, labels), x)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("margin", "gamma"), [(0.4, 80.0), (0.25, 256.0)])
def test_circle(margin, gamma, seed):
    x, labels = batch(seed)
    peer = theirs("losses", "CircleLoss", m=margin, gamma=gamma)
    same(lambda z: of(Circle(gamma, margin), z, labels), lambda z: peer(z, labels), x)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_soft_nearest_neighbors(temperature, seed):
    x, labels = batch(seed)
    x = F.normalize(x, dim=1)
    distance = euclidean(2)
    peer = theirs("losses", "NCALoss", softmax_scale=1 / temperature, distance=distance)
    method = SoftNearestNeighbor(temperature)
    same(lambda z: of(method, z, labels), lambda z: peer(z, labels), x)


@pytest.mark.parametrize("nodes", [11, 151])
@pytest.mark.parametrize("seed", range(3))
def test_histogram(seed, nodes):
    x, labels = batch(seed)
    peer = theirs("losses", "HistogramLoss", n_bins=nodes - 1)
    same(lambda z: of(Histogram(nodes), z, labels), lambda z: peer(z, labels), x, tolerance=1e-6)


@pytest.mark.parametrize("alpha", [40.0, 45.0])
@pytest.mark.parametrize("seed", range(3))
def test_angular(alpha, seed):
    """Theirs leaves negatives as they come, so both get unit vectors."""
    x, labels = batch(seed)
    peer = theirs("losses", "AngularLoss", alpha=alpha)
    same(
        lambda z: of(Angular(alpha), F.normalize(z, dim=1), labels),
        lambda z: peer(F.normalize(z, dim=1), labels),
        x,
        tolerance=1e-8,
    )


@pytest.mark.parametrize("seed", range(3))
def test_npair(seed):
    """Theirs takes one pair a class, and normalises unless told."""
    x = batch(seed, rows=8)[0]
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    distance = theirs("distances", "DotProductSimilarity", normalize_embeddings=False)
    peer = theirs("losses", "NPairsLoss", distance=distance)
    same(lambda z: of(NPair(l2=0.0), z, labels), lambda z: peer(z, labels), x)


@pytest.mark.parametrize("seed", range(3))
def test_ranked_list(seed):
    """Theirs adds 1e-5 to each entry of its denominators and differentiates through the weights:
    equal to 1e-4, and with a temperature of 0 the gradients, too."""
    x, labels = batch(seed)
    x = F.normalize(x, dim=1)
    for temperature in (0.0, 10.0):
        peer = theirs("losses", "RankedListLoss", margin=0.4, Tn=temperature, alpha=1.2)
        method = RankedList(1.2, 0.4, temperature, pos_weight=0.5, neg_weight=0.5)
        found, expected = of(method, x, labels), peer(x, labels)
        torch.testing.assert_close(found, expected, atol=0, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_proxy_anchor(seed):
    """By embeddings and by proxies, of which two are of classes that the batch lacks."""
    x, labels = batch(seed)
    peer = theirs(
        "losses", "ProxyAnchorLoss", num_classes=7, embedding_size=6, margin=0.1, alpha=32
    ).double()

    def of_theirs(z: torch.Tensor, proxies: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(peer, {"proxies": proxies}, (z, labels))

    same(
        lambda z, proxies: proxy_anchor_loss(z, labels, proxies),
        of_theirs,
        x,
        batch(seed + 9, rows=7)[0],
    )


@pytest.mark.parametrize("temperature", [1.0, 1 / 9])
@pytest.mark.parametrize("seed", range(3))
def test_proxy_nca_pp(seed, temperature):
    """Their Proxy-NCA has the own proxy in the sum, which is this loss."""
    x, labels = batch(seed)
    settings = {"num_classes": 7, "embedding_size": 6, "softmax_scale": 1 / temperature}
    peer = theirs("losses", "ProxyNCALoss", **settings).double()

    def of_theirs(z: torch.Tensor, proxies: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(peer, {"proxies": proxies}, (z, labels))

    proxies = batch(seed + 9, rows=7)[0]
    same(lambda z, p: proxy_nca_pp(z, labels, p, temperature), of_theirs, x, proxies)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_memory(weight):
    """The loss of the batch and that against the memory: their `CrossBatchMemory` gives the second
    alone."""
    x, labels = batch(1)
    memory = filled_memory()
    kept = memory.labels[0] >= 0
    stored = {"ref_emb": memory.embeddings[kept], "ref_labels": memory.labels[0][kept]}
    peer = theirs("losses", "MultiSimilarityLoss", alpha=2, beta=50, base=0.5)
    method = XBM(options={"epsilon": None}, start=0, memory_weight=weight)
    recipe = running(method, memory)
    same(
        lambda z: method.loss(z, labels, "label", recipe)[0],
        lambda z: peer(z, labels) + weight * peer(z, labels, **stored),
        x,
        tolerance=1e-7,
    )
    assert method.loss(x, labels, "label", recipe)[1]["xbm_memory"] > 0


def test_measures_of_retrieval():
    names = {
        "precision_at_1": "recall@1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map@r",
    }
    neighbors = theirs(
        "utils.inference", "CustomKNN", distance=theirs("distances", "CosineSimilarity")
    )
    peer = theirs(
        "utils.accuracy_calculator", "AccuracyCalculator", include=tuple(names), knn_func=neighbors
    )
    x, labels = sample(4, rows=90)
    ours = measured(x, labels)
    assert {name: ours[mine] for name, mine in names.items()} == pytest.approx(
        peer.get_accuracy(x, labels)
    )
