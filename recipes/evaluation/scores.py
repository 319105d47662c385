"""Metrics of the classifiers beside accuracy: of the classes they choose, and how sure they are."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassCalibrationError,
    MulticlassF1Score,
    MulticlassPrecision,
)

from foundation.errors import UserError
from foundation.types import Count, Steps
from recipes.contract.probe import Probe

if TYPE_CHECKING:
    from recipes.contract.context import Context

MEAN = "macro"  # every class counts the same


class Scores(Probe):
    """Macro F1 and precision, AUROC, average precision, top-k accuracy and calibration error of
    every head (torchmetrics).

    f1, precision: mean over classes; a class that is neither there nor predicted is left out.
    auroc, average_precision: each class against the rest, mean over the classes that are there;
    from `thresholds` equal steps of the probability, so that memory does not grow with the part.
    topK: share of samples whose class is among the K most probable, for each K below the number of
    classes. ece: expected calibration error, the mean distance of confidence and accuracy over
    `bins` of equal width (Guo et al., ICML 2017, arXiv 1706.04599). Macro recall is
    `balanced_accuracy`, the negative log-likelihood is `loss`, which every run has. Samples without
    a label take no part. Costs a forward pass of its own.

    top: the K of top-k accuracy; null: [5].
    bins: of the calibration error, at least 1; 15 (paper).
    thresholds: of AUROC and average precision, at least 2; 200; 0: neither. Their memory is
        thresholds · classes · 32 bytes.
    """

    def __init__(self, top: list[Count] | None = None, bins: Count = 15, thresholds: Steps = 200):
        super().__init__()
        self.top = sorted(set([5] if top is None else top))
        self.bins = bins
        self.thresholds = thresholds
        self.by_task = nn.ModuleDict()
        if thresholds == 1:
            raise UserError("evaluate.scores.thresholds=1: expected 2 or more, or 0 for none")

    def build(self, context: "Context") -> None:
        for task, settings in context.tasks.items():
            self.by_task[task] = MetricCollection(self.metrics(settings.outputs))

    def metrics(self, classes: int) -> dict[str, Any]:
        # validated labels would wait for the device in every batch
        common: dict[str, Any] = {
            "num_classes": classes,
            "validate_args": False,
            "ignore_index": -1,
        }
        mean = common | {"average": MEAN}
        found: dict[str, Any] = {
            "f1": MulticlassF1Score(**mean),
            "precision": MulticlassPrecision(**mean),
            "ece": MulticlassCalibrationError(n_bins=self.bins, **common),
        }
        if self.thresholds:
            found["auroc"] = MulticlassAUROC(thresholds=self.thresholds, **mean)
            found["average_precision"] = MulticlassAveragePrecision(
                thresholds=self.thresholds, **mean
            )
        for k in self.top:
            if k < classes:
                found[f"top{k}"] = MulticlassAccuracy(top_k=k, average="micro", **common)
        return found

    def metric_names(self, tasks: Sequence[str]) -> list[str]:
        names = ["f1", "precision", "ece", *(f"top{k}" for k in self.top)]
        if self.thresholds:
            names += ["auroc", "average_precision"]
        by_task = [f"{task}/{name}" for task in tasks for name in names] if len(tasks) > 1 else []
        return names + by_task

    def describe(self) -> str:
        areas = f"; areas from {self.thresholds} thresholds" if self.thresholds else ""
        return f"means over classes, each the same; calibration in {self.bins} bins{areas}"

    @torch.no_grad()
    def update(
        self, context: "Context", view: Any, targets: dict[str, Tensor], index: Tensor
    ) -> None:
        output = context.predict_output(context.reported().embed(view), index=index)
        for task, metrics in self.collections():
            probabilities = output.logits[task].float().softmax(1)
            metrics.to(probabilities.device)
            metrics.update(probabilities, targets[task])

    @torch.no_grad()
    def compute(self) -> dict[str, Tensor]:
        by_task = {task: values_of(metrics) for task, metrics in self.collections()}
        if len(by_task) == 1:
            return next(iter(by_task.values()))
        found = {f"{task}/{k}": v for task, values in by_task.items() for k, v in values.items()}
        return found | means(by_task)

    def reset(self) -> None:
        for _, metrics in self.collections():
            metrics.reset()

    def collections(self) -> Iterator[tuple[str, MetricCollection]]:
        for task, metrics in self.by_task.items():
            yield task, cast(MetricCollection, metrics)


def values_of(metrics: MetricCollection) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        # a class that the part lacks has no area: it is left out of the mean
        warnings.simplefilter("ignore")
        return {name: value.double() for name, value in metrics.compute().items()}


def means(by_task: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each metric over the tasks that have it."""
    groups: dict[str, list[Tensor]] = {}
    for values in by_task.values():
        for name, value in values.items():
            groups.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in groups.items()}
