"""What losses on embeddings share: the head, the pairs of the global batch, one term a task.

Musgrave, Belongie and Lim, A metric learning reality check, ECCV 2020, arXiv 2003.08505, compare such losses under one
protocol.
"""

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from methods.metric_learning.pairs import Pairs, mean_where, pairs_of
from recipes.gather import gather_with_gradient
from recipes.method import Declaration, EmbeddingRequest, Method
from recipes.networks.embedding import EMBEDDING
from recipes.recipe import Recipe
from recipes.statistics import gather_rows
from recipes.step import Step

Weight = Annotated[float, Field(ge=0)]
Dim = Annotated[int, Field(ge=1)]
Scores = dict[str, Tensor]


class MetricLoss(Method):
    """L(x, y) on the embeddings of the labeled stream's weak view and their hard labels, once for each task.

    The view is the clean one: what mixes or attacks the labeled input changes the classification branch alone, and
    where nothing does both share one forward. On several ranks the loss is that of the global batch, exactly. It is
    computed in float32 with autocast off. Logged: the mean cosine of positive and of negative pairs.
    """

    def __init__(self, weight: float, dim: int, normalize: bool):
        self.weight, self.dim, self.normalize = weight, dim, normalize

    def declare(self) -> Declaration:
        return Declaration(embedding=EmbeddingRequest(self.dim, self.normalize), tags=("metric_loss",))

    @abstractmethod
    def loss(self, x: Tensor, labels: Tensor, task: str, recipe: Recipe) -> tuple[Tensor, Scores]:
        """The loss of the global batch and what else to log. x: [B, dim] float32, labels: [B], -1 for none."""

    def prepare(self, step: Step, recipe: Recipe) -> None:
        step.request("labeled", "weak")

    def terms(self, step: Step, recipe: Recipe) -> None:
        x = step.outputs["labeled/weak"].logits[EMBEDDING]
        with torch.autocast(x.device.type, enabled=False):
            x = gather_with_gradient(x.float())
            for task in step.tasks:
                labels = gather_rows(step.streams["labeled"].targets[task])
                value, scores = self.loss(x, labels, task, recipe)
                step.term(step.named(self.key, task), value, weight=self.weight, task=task)
                for name, score in (scores | pair_scores(x, pairs_of(labels))).items():
                    step.scalar(step.named(name, task), score)


@torch.no_grad()
def pair_scores(x: Tensor, pairs: Pairs) -> Scores:
    """Mean cosine of positive and of negative pairs; both near 1 is a collapse."""
    unit = torch.nn.functional.normalize(x, dim=1)
    cosine = unit @ unit.T
    return {
        "positive_cosine": mean_where(cosine, pairs.positive),
        "negative_cosine": mean_where(cosine, pairs.negative),
    }


class PairLoss(MetricLoss):
    """A metric loss whose references may be others than the batch: the memory of XBM."""

    @abstractmethod
    def between(self, x: Tensor, references: Tensor, pairs: Pairs) -> tuple[Tensor, Scores]:
        """x: [B, dim] anchors, references: [R, dim], pairs: masks [B, R]."""

    def loss(self, x: Tensor, labels: Tensor, task: str, recipe: Recipe) -> tuple[Tensor, Scores]:
        return self.between(x, x, pairs_of(labels))
