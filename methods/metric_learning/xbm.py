"""Cross-batch memory. Wang, Zhang, Huang and Scott, Cross-batch memory for embedding learning, CVPR
2020, arXiv 1912.06798."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from foundation.distributed import gather_rows
from foundation.errors import ConfigErrors, UserError, nearest
from foundation.types import Count, StepsOrShare, Weight, steps_of
from methods.metric_learning.contrastive import Contrastive
from methods.metric_learning.metric import MetricLoss, PairLoss, Scores
from methods.metric_learning.multi_similarity import MultiSimilarity
from methods.metric_learning.triplet import Triplet
from recipes.config.signatures import signature
from recipes.config.validation import value_errors
from recipes.contract import Context
from recipes.networks.embedding import EMBEDDING
from recipes.step import Step

Name = Literal["multi_similarity", "triplet", "contrastive"]
LOSSES: dict[str, Callable[..., PairLoss]] = {
    "contrastive": Contrastive,
    "multi_similarity": MultiSimilarity,
    "triplet": Triplet,
}
OWN = ("weight", "dim", "normalize")  # arguments that XBM sets itself


class Memory(nn.Module):
    """A ring of the last `size` embeddings with their labels, equal on all ranks.

    embeddings: [size, dim]. labels: [T, size], -1 in rows not yet written, so that no pair has
    them. written: how many rows have been, in all.
    """

    embeddings: Tensor
    labels: Tensor
    written: Tensor

    def __init__(self, size: int, dim: int, tasks: int):
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((tasks, size), -1))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, x: Tensor, labels: Tensor) -> None:
        """Overwrite the oldest rows. x: [B, dim] of all ranks in the order of the global batch.
        labels: [T, B]."""
        size = len(self.embeddings)
        x = x[-size:]
        labels = labels[:, -size:]
        place = (self.written + torch.arange(len(x), device=x.device)) % size
        self.embeddings[place] = x
        self.labels[:, place] = labels
        self.written += len(x)


def wrapped_loss(name: str, options: dict[str, Any], dim: int, normalize: bool) -> PairLoss:
    """The pair loss with these arguments. Raises UserError for those that it cannot take."""
    arguments = dict(signature(LOSSES[name]).arguments)
    for own in OWN:
        arguments.pop(own, None)
    faults: list[UserError | str] = []
    for option, value in options.items():
        key = f"methods.xbm.options.{option}"
        if option not in arguments:
            faults.append(f"{key}: {name} has no such argument; {nearest(option, arguments)}")
        else:
            faults += value_errors(key, value, arguments[option].annotation)
    if options.get("mining") == "distance_weighted":
        faults.append(
            "methods.xbm.options.mining=distance_weighted: draws negatives from the batch alone; "
            "expected all, batch_hard, semi_hard or semi_hard_all"
        )
    if faults:
        raise ConfigErrors(faults)
    return LOSSES[name](**options, dim=dim, normalize=normalize)


class XBM(MetricLoss):
    """L = L(batch, batch) + w · L(batch, memory): a pair loss that also sees the embeddings of the
    last M samples.

    Embeddings drift slowly once training is under way, so those of earlier steps serve as
    references, without gradient, and each anchor meets far more pairs than its batch has. The batch
    is put into the memory after the optimizer step, in the order of the global batch, so it is
    counted once and never meets itself; of several micro-batches the last is kept. The memory is
    part of checkpoints.

    loss: pair loss: `multi_similarity`, `triplet` or `contrastive` (paper).
    options: settings of the pair loss: +methods.xbm.options.margin=0.1.
    size: embeddings M in the memory, at least 1; 1024 (ours); up to the whole data set.
    start: optimizer steps before the memory term begins, at least 0, or a share of the run below 1;
        0.1 (ours; paper: 1000 steps). The memory fills meanwhile, and embeddings still drift fast.
    memory_weight: factor w of the memory term, at least 0; 1 (paper).
    weight: factor of the sum of both terms, at least 0; 1.
    dim: width of the embedding; 128.
    normalize: L2-normalise the embedding, also in the memory; true.
    """

    samples_in_batch = 1  # the pairs are with the memory
    classes_in_batch = 1

    def __init__(
        self,
        loss: Name = "multi_similarity",
        options: dict[str, Any] = {},  # noqa: B006
        size: Count = 1024,
        start: StepsOrShare = 0.1,
        memory_weight: Weight = 1.0,
        weight: Weight = 1.0,
        dim: Count = 128,
        normalize: bool = True,
    ):
        super().__init__(weight, dim, normalize)
        self.wrapped = wrapped_loss(loss, dict(options), dim, normalize)
        self.size = size
        self.start = start
        self.memory_weight = memory_weight

    def build(self, context: Context) -> None:
        context.method_modules[self.key] = Memory(self.size, self.dim, len(context.tasks))

    def loss(self, x: Tensor, labels: Tensor, task: str, context: Context) -> tuple[Tensor, Scores]:
        value, scores = self.wrapped.loss(x, labels, task, context)
        memory = cast(Memory, self.module(context))
        if context.trainer.global_step < steps_of(self.start, context.total_steps):
            return value, scores
        stored = memory.labels[list(context.tasks).index(task)]
        with_memory, _ = self.wrapped.between(x, labels, memory.embeddings, stored)
        return value + self.memory_weight * with_memory, scores | {"xbm_memory": with_memory}

    def after_step(self, step: Step, context: Context) -> None:
        x = gather_rows(step.outputs["labeled/weak"].logits[EMBEDDING].float())
        targets = step.streams["labeled"].targets
        labels = torch.stack([gather_rows(targets[task]) for task in context.tasks])
        cast(Memory, self.module(context)).enqueue(x, labels)
