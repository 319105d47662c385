"""Losses on pairs with their worked numbers on the fixture, and one of each way through the code."""

from collections.abc import Callable
from typing import Any

from methods.metric_learning.batch_hard_triplet import BatchHardTriplet
from methods.metric_learning.binomial_deviance import BinomialDeviance
from methods.metric_learning.circle import Circle
from methods.metric_learning.contrastive import Contrastive
from methods.metric_learning.metric import MetricLoss
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
}
# whose gradient is not the derivative of the value: weights are constants in it
DETACHED: dict[str, MetricLoss] = {
    "circle": Circle(4.0, 0.3),
    "circle batch": Circle(4.0, 0.3, scope="batch"),
}

# those whose memory is a block, whatever the batch
IN_BLOCKS = LOSSES | DETACHED
