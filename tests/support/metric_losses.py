"""Losses on pairs with their worked numbers on the fixture, and one of each way through the code."""

from collections.abc import Callable
from typing import Any

from methods.metric_learning.contrastive import Contrastive
from methods.metric_learning.metric import MetricLoss

SURVEY = {"power": 1, "reduction": "mean_each"}

WORKED: list[tuple[Callable[..., Any], dict[str, Any], float]] = [
    (Contrastive, {}, 0.4745178133),
    (Contrastive, {"power": 1}, 1.1870318820),
    (Contrastive, {"reduction": "mean_all"}, 0.1319142773),
    (Contrastive, SURVEY, 0.9949716398),
    (Contrastive, {**SURVEY, "reduction": "mean_all"}, 0.3400158648),
]

# one of each way through the code
LOSSES: dict[str, MetricLoss] = {
    "contrastive": Contrastive(),
    "contrastive p=1": Contrastive(0.1, 0.9, power=1, reduction="mean_each"),
    "contrastive cosine": Contrastive(distance="cosine", reduction="mean_batch"),
}

# those whose memory is a block, whatever the batch
IN_BLOCKS = LOSSES
