"""What losses on embeddings share: the head, the pairs of the global batch, one term a task.

Musgrave, Belongie and Lim, A metric learning reality check, ECCV 2020, arXiv 2003.08505, compare
such losses under one protocol.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from foundation.distributed import gather_rows, gather_with_gradient
from recipes.contract import Context, Declaration, EmbeddingRequest, Method
from recipes.networks.embedding import EMBEDDING
from recipes.step import Step

Scores = dict[str, Tensor]


class MetricLoss(Method):
    """L(x, y) on the embeddings of the labeled stream's weak view and their hard labels, once for
    each task.

    The view is the clean one: what mixes or attacks the labeled input changes the classification
    branch alone, and where nothing does both share one forward. On several ranks the loss is that
    of the global batch (with accumulation: micro-batch), exactly. It is computed in float32 with
    autocast off. Logged: the mean cosine of positive and of negative pairs.

    A subclass whose loss needs more than a positive and a negative says so in `samples_in_batch`
    and `classes_in_batch`; one whose features are normalised first, in `layer_norm`.

    weight: factor of the loss, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding.
    """

    samples_in_batch = 3
    classes_in_batch = 2
    layer_norm = False

    def __init__(self, weight: float, dim: int, normalize: bool):
        self.weight = weight
        self.dim = dim
        self.normalize = normalize

    def declare(self) -> Declaration:
        return Declaration(
            embedding=EmbeddingRequest(self.dim, self.normalize, self.layer_norm),
            tags=("metric_loss",),
            samples_in_batch=self.samples_in_batch,
            classes_in_batch=self.classes_in_batch,
        )

    @abstractmethod
    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        """The loss of the global batch and what else to log. x: [B, dim] float32, labels: [B], -1
        for none."""

    def prepare(self, step: Step, context: Context) -> None:
        step.request("labeled", "weak")

    def terms(self, step: Step, context: Context) -> None:
        x = step.outputs["labeled/weak"].logits[EMBEDDING]
        with torch.autocast(x.device.type, enabled=False):
            x = gather_with_gradient(x.float())
            for task in step.tasks:
                labels = gather_rows(step.streams["labeled"].targets[task])
                value, scores = self.loss(x, labels, task, context)
                step.term(step.term_name(self.key, task), value, weight=self.weight, task=task)
                for name, score in (scores | pair_scores(x, labels)).items():
                    step.scalar(step.term_name(name, task), score)


@torch.no_grad()
def pair_scores(x: Tensor, labels: Tensor) -> Scores:
    """Mean cosine of positive and of negative pairs, in [-1, 1]; both near 1 is a collapse.

    x: [B, d], labels: [B], -1 for none. From B numbers in place of B²: the cosines of all pairs of
    a set, each sample with itself included, add up to the square of the sum of its unit vectors.
    """
    labeled = labels >= 0
    unit = torch.nn.functional.normalize(x, dim=1) * labeled[:, None]
    # equal for all samples of a class, and less than B, whatever the labels are
    class_index = torch.searchsorted(labels.sort().values, labels)
    class_sums = torch.zeros_like(unit).index_add_(0, class_index, unit)
    class_sizes = torch.zeros_like(unit[:, 0]).index_add_(0, class_index, labeled.to(unit))
    within_classes = class_sums.square().sum()
    with_itself = unit.square().sum()
    over_all = unit.sum(0).square().sum()
    positives = (class_sizes * (class_sizes - 1)).sum()
    negatives = class_sizes.sum() ** 2 - class_sizes.square().sum()
    return {
        "positive_cosine": (within_classes - with_itself) / positives.clamp_min(1),
        "negative_cosine": (over_all - within_classes) / negatives.clamp_min(1),
    }


class PairLoss(MetricLoss):
    """A metric loss whose references may be others than the batch: the memory of XBM."""

    @abstractmethod
    def between(
        self,
        x: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
    ) -> tuple[Tensor, Scores]:
        """The loss of anchors against references, and what else to log. x: [B, dim] anchors with
        labels [B]. references: [R, dim] with labels [R], -1 for none; None: the batch itself."""

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        return self.between(x, labels)
