"""Losses on pairs with their worked numbers on the fixture, and one of each way through the code."""

from collections.abc import Callable
from typing import Any

from methods.metric_learning.angular import Angular
from methods.metric_learning.batch_hard_triplet import BatchHardTriplet
from methods.metric_learning.binomial_deviance import BinomialDeviance
from methods.metric_learning.circle import Circle
from methods.metric_learning.clustering import Clustering
from methods.metric_learning.contrastive import Contrastive
from methods.metric_learning.histogram import Histogram
from methods.metric_learning.improved_triplet import ImprovedTriplet
from methods.metric_learning.metric import MetricLoss
from methods.metric_learning.npair import NPair
from methods.metric_learning.quadruplet import Quadruplet
from methods.metric_learning.ranked_list import RankedList
from methods.metric_learning.soft_nearest_neighbor import SoftNearestNeighbor

SURVEY = {"power": 1, "reduction": "mean_each"}

WORKED: list[tuple[Callable[..., Any], dict[str, Any], float]] = [
    (Contrastive, {}, 0.4745178133),
    (Contrastive, {"power": 1}, 1.1870318820),
    (Contrastive, {"reduction": "mean_all"}, 0.1319142773),
    (Contrastive, SURVEY, 0.9949716398),
    (Contrastive, {**SURVEY, "reduction": "mean_all"}, 0.3400158648),
    (BinomialDeviance, {}, 6.7859553593),
    (BinomialDeviance, {"negative_cost": 10.0}, 3.0946736763),
    (BinomialDeviance, {"negative_cost": 2.0}, 1.2814952716),
    (Circle, {}, 54.5523367253),
    (Circle, {"margin": 0.25, "gamma": 256.0}, 224.4874300667),
    (Circle, {"margin": 0.25, "gamma": 1.0}, 2.2309189831),
    (Circle, {"scope": "batch"}, 79.6768014049),
    (Circle, {"scope": "batch", "margin": 0.25, "gamma": 256.0}, 304.8856866173),
    (Circle, {"scope": "batch", "margin": 0.25, "gamma": 1.0}, 4.2402430534),
    (BatchHardTriplet, {}, 0.9664293787),
    (BatchHardTriplet, {"soft": False, "margin": 0.2}, 0.6796069316),
    (Angular, {}, 4.2254071304),
    (Angular, {"alpha": 40.0}, 2.7445581135),
    (Clustering, {}, 1.1315931250),
    (Clustering, {"nmi": "arithmetic"}, 1.1320383983),
    (Histogram, {"nodes": 11}, 0.3710956831),
    (Histogram, {"nodes": 101}, 0.3578400026),
    (Histogram, {}, 0.3504502533),
    (ImprovedTriplet, {}, -0.2591142159),
    (ImprovedTriplet, {"form": "hinge"}, 0.7408657841),
    (ImprovedTriplet, {"form": "hinge", "pos_weight": 1.0}, 1.5333543812),
    (ImprovedTriplet, {"form": "hinge", "pos_weight": 1.0, "squared": False}, 1.6158674908),
    (NPair, {"l2": 0.0}, 0.5688836138),
    (Quadruplet, {}, 0.9172259565),
    (Quadruplet, {"margin_mode": "batch"}, 0.8817729534),
    (Quadruplet, {"squared": False, "margin_other": 1.0}, 1.2511969343),
    (RankedList, {}, 0.7558070553),
    (RankedList, {"neg_weight": 0.0}, 0.1647640157),
    (RankedList, {"neg_weight": 0.0, "pos_norm": "all"}, 0.1320648994),
    (RankedList, {"pos_weight": 0.0}, 0.5910430396),
    (SoftNearestNeighbor, {}, 1.3231189917),
    (SoftNearestNeighbor, {"temperature": 1.0}, 1.1094690501),
]

# one of each way through the code
LOSSES: dict[str, MetricLoss] = {
    "contrastive": Contrastive(),
    "contrastive p=1": Contrastive(0.1, 0.9, power=1, reduction="mean_each"),
    "contrastive cosine": Contrastive(distance="cosine", reduction="mean_batch"),
    "binomial_deviance": BinomialDeviance(negative_cost=5.0),
    "circle unpaced": Circle(4.0, 0.3, paced=False),
    "circle batch unpaced": Circle(4.0, 0.3, scope="batch", paced=False),
    "batch_hard_triplet": BatchHardTriplet(),
    "soft_nearest_neighbor": SoftNearestNeighbor(),
    "histogram": Histogram(nodes=21),
    "improved_triplet": ImprovedTriplet(pos_margin=0.5, pos_weight=1.0),
    "ranked_list plain": RankedList(2.0, 0.5, temperature=0.0, pos_norm="all", normalize=False),
}
# whose pairs meet pairs, so that they need the whole matrix
WHOLE: dict[str, MetricLoss] = {
    "angular": Angular(),
    "clustering": Clustering(),
    "clustering squared": Clustering(0.0, squared=True, reduction="mean_batch"),
    "quadruplet": Quadruplet(),
    "quadruplet unsquared": Quadruplet(squared=False, reduction="mean_nonzero"),
    "npair": NPair(l2=0.1),
    "npair symmetric": NPair(symmetric=True),
}
# whose gradient is not the derivative of the value: weights are constants in it
DETACHED: dict[str, MetricLoss] = {
    "circle": Circle(4.0, 0.3),
    "circle batch": Circle(4.0, 0.3, scope="batch"),
    "ranked_list": RankedList(2.0, 0.5, pos_temperature=2.0, pos_weight=0.4),
}

# those whose memory is a block, whatever the batch
IN_BLOCKS = LOSSES | DETACHED
