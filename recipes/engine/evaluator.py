"""Metrics of the evaluation by task, for the reported network and for the raw one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from recipes.tasks.classification import Evaluation, Task


class Evaluator(nn.Module):
    """Accumulates over batches and ranks. `both`: the reported network differs from the trained
    one, so both are evaluated; metrics of the trained one have the prefix `raw/`. `confusion` and
    `class_counts` are those of the reported network, by task, of the part computed last.

    Names: `PART/accuracy` with one task; `PART/TASK/accuracy` and their mean `PART/accuracy` with
    several.
    """

    def __init__(self, tasks: Sequence[Task], both: bool):
        super().__init__()
        self.names = [task.name for task in tasks]
        self.variants = (False, True) if both else (False,)
        self.metrics = nn.ModuleList()
        for _ in self.variants:
            self.metrics.append(nn.ModuleList(task.evaluation() for task in tasks))
        self.confusion: dict[str, Tensor] = {}
        self.class_counts: dict[str, Tensor] = {}

    def of(self, raw: bool) -> dict[str, Evaluation]:
        """The metrics by task of the reported or the raw network."""
        metrics = cast(nn.ModuleList, self.metrics[self.variants.index(raw)])
        return dict(zip(self.names, cast(Iterable[Evaluation], metrics), strict=True))

    def update(self, raw: bool, logits: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
        for name, metric in self.of(raw).items():
            metric.update(logits[name], targets[name])

    def compute(self, part: str) -> dict[str, float]:
        """All metrics of this part; accumulation restarts for the next one."""
        values: dict[str, float] = {}
        reported = self.of(raw=False)
        matrices = {name: metric.matrix().cpu() for name, metric in reported.items()}
        self.confusion = {name: matrix for name, matrix in matrices.items() if matrix.numel()}
        self.class_counts = {name: metric.class_counts().cpu() for name, metric in reported.items()}
        for raw in self.variants:
            prefix = f"{part}/raw" if raw else part
            by_task = {
                name: _computed(metric, f"{prefix}/{name}") for name, metric in self.of(raw).items()
            }
            if len(by_task) > 1:
                for name, metrics in by_task.items():
                    values |= {f"{prefix}/{name}/{key}": float(v) for key, v in metrics.items()}
            values |= {f"{prefix}/{key}": value for key, value in _means(by_task).items()}
            for evaluation in self.of(raw).values():
                evaluation.reset()
        return values


def _computed(metric: Evaluation, name: str) -> dict[str, Tensor]:
    """The metrics of one task, whose mistakes carry its name."""
    try:
        return metric.compute()
    except UserError as error:
        remedy = "lower optimizer.lr, or set trainer.gradient_clip_val=1"
        raise UserError(name, error.problem, remedy) from error


def _means(by_task: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
    """The mean of each metric over the tasks that have it."""
    groups: dict[str, list[Tensor]] = {}
    for metrics in by_task.values():
        for name, value in metrics.items():
            groups.setdefault(name, []).append(value)
    return {name: float(torch.stack(values).mean()) for name, values in groups.items()}
