"""The worked example of the family: class counts 100, 10, 1 and two samples; and a criterion of
methods on it."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from foundation.randomness import Randomness
from recipes.contract import Method
from recipes.services.statistics import ClassStatistics
from recipes.step.criterion import Criterion

COUNTS = torch.tensor([100, 10, 1])
LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.5, -1.0, 1.5]])
TARGETS = torch.tensor([0, 2])


def criterion_of(
    *methods: Method, counts: Tensor = COUNTS, labels: Tensor | None = None
) -> "OfStep":
    """The criterion of a run with these methods and class counts, `labels` [M] being what a step
    has read."""
    classes = len(counts)
    recipe = SimpleNamespace(
        statistics=ClassStatistics({"label": counts}),
        method_modules={},
        tasks={"label": SimpleNamespace(outputs=classes)},
        network=SimpleNamespace(heads={"label": nn.Linear(2, classes)}),
    )
    stream = SimpleNamespace(targets={"label": TARGETS if labels is None else labels})
    step = SimpleNamespace(streams={"labeled": stream}, randomness=Randomness(0, 0), replay=False)
    for i, method in enumerate(methods):
        method.key = f"method{i}"
        method.build(recipe)
        method.prepare(step, recipe)

    def bound(point: str) -> list:
        return [
            partial(getattr(method, point), context=recipe)
            for method in methods
            if method.implements(point)
        ]

    criterion = Criterion(bound("adjust"), bound("sample_weights"), bound("class_losses"))
    return OfStep(criterion, step)


@dataclass
class OfStep:
    """A criterion within one step."""

    criterion: Criterion
    step: Any

    def __call__(self, *args: Any) -> Tensor:
        return self.criterion(self.step, *args)

    def adjust(self, *args: Any) -> Tensor:
        return self.criterion.adjust(self.step, *args)


def losses(
    *methods: Method, logits: Tensor = LOGITS, target: Tensor = TARGETS, **more: Tensor
) -> Tensor:
    """The supervised losses of the samples, [N]."""
    return criterion_of(*methods, **more)(logits, target, "label", "labeled")
