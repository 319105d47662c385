"""Metrics of evaluation: by task, for the reported network and for the raw one beside it."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from recipes.tasks.classification import Evaluation, Task


class Evaluator(nn.Module):
    """Accumulates over batches and ranks. `both`: the reported network differs from the trained
    one, so both are evaluated; the raw figures carry the prefix `raw/`.

    Names: `PART/accuracy` with one task; `PART/TASK/accuracy` and their mean `PART/accuracy` with
    several.
    """

    def __init__(self, tasks: Sequence[Task], both: bool):
        super().__init__()
        self.names = [task.name for task in tasks]
        self.variants = (False, True) if both else (False,)
        self.metrics = nn.ModuleList(
            nn.ModuleList(task.evaluation() for task in tasks) for _ in self.variants
        )
        self.confusion: dict[str, Tensor] = {}

    def of(self, raw: bool) -> dict[str, Evaluation]:
        """The metrics by task of the reported or the raw network."""
        metrics = cast(nn.ModuleList, self.metrics[self.variants.index(raw)])
        return dict(zip(self.names, cast(Iterable[Evaluation], metrics), strict=True))

    def update(self, raw: bool, logits: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
        for name, metric in self.of(raw).items():
            metric.update(logits[name], targets[name])

    def compute(self, part: str) -> dict[str, float]:
        """All metrics of this part, and a clean slate for the next."""
        values: dict[str, float] = {}
        self.confusion = {
            name: metric.matrix().cpu() for name, metric in self.of(raw=False).items()
        }
        for raw in self.variants:
            prefix = f"{part}/raw" if raw else part
            by_task = {name: metric.compute() for name, metric in self.of(raw).items()}
            if len(by_task) > 1:
                for name, metrics in by_task.items():
                    values |= {
                        f"{prefix}/{name}/{metric}": float(value)
                        for metric, value in metrics.items()
                    }
            for metric in dict.fromkeys(
                metric for metrics in by_task.values() for metric in metrics
            ):
                mean = torch.stack(
                    [metrics[metric] for metrics in by_task.values() if metric in metrics]
                ).mean()
                values[f"{prefix}/{metric}"] = float(mean)
            for evaluation in self.of(raw).values():
                evaluation.reset()
        return values
