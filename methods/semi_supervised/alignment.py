"""Distribution alignment: the classes of recent predictions held against those of the labels."""

from functools import partial

import torch
from torch import Tensor, nn

from foundation.distributed import global_sum, world_size
from methods.semi_supervised.targets import Align, aligned, soft_targets
from recipes.contract import Context, Method
from recipes.step import Step


class RecentPredictions(nn.Module):
    """p̃(y) [C]: the mean of the last `size` batches' mean predictions, each uniform at first; part
    of checkpoints and equal on all ranks."""

    batches: Tensor
    written: Tensor

    def __init__(self, classes: int, size: int = 128):
        super().__init__()
        self.register_buffer("batches", torch.full((size, classes), 1.0 / classes))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    def mean(self) -> Tensor:
        return self.batches.mean(0)

    @torch.no_grad()
    def add(self, probabilities: Tensor) -> None:
        """A batch of this rank, [N, C], in place of the oldest one."""
        mean = global_sum(probabilities.float().mean(0)) / world_size()
        # the place is a tensor: an index on the host would sync
        self.batches.index_copy_(0, (self.written % len(self.batches)).view(1), mean.unsqueeze(0))
        self.written += 1


class AlignsToLabels(Method):
    """Base of methods whose pseudo-labels may follow the class distribution p(y) of the labels:
    q ← normalise(q · p(y) / p̃(y)), with the mean prediction p̃ of the last `align` batches.

    align: batches that are averaged; 0: pseudo-labels stay as they are predicted.
    """

    align: int = 0

    def build(self, context: Context) -> None:
        if self.align:
            context.method_modules[self._recent] = nn.ModuleDict(
                {
                    task: RecentPredictions(entry.outputs, self.align)
                    for task, entry in context.tasks.items()
                }
            )

    def alignment(self, logits: Tensor, task: str, step: Step, context: Context) -> Align | None:
        """The align slot of the pipeline for these logits [U, C], which count from the next batch
        on."""
        if not self.align:
            return None
        step.scratch[f"{self.key}/{task}"] = soft_targets(logits)
        counts = context.statistics.counts(task)
        seen = context.method_modules[self._recent][task].mean()
        return partial(aligned, wanted=counts / counts.sum(), seen=seen)

    def after_batch(self, step: Step, context: Context) -> None:
        if self.align:
            for task in step.tasks:
                predicted = step.scratch[f"{self.key}/{task}"]
                context.method_modules[self._recent][task].add(predicted)

    @property
    def _recent(self) -> str:
        return f"{self.key}_recent"
