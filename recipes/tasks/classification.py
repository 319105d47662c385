"""Classification: the supervised loss and the metrics of one head. Other kinds of tasks implement
the same protocols, `Task` and `Evaluation`."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from foundation.errors import UserError
from recipes.step.criterion import cross_entropy, label_mass
from recipes.step.step import Step
from recipes.tasks.class_results import ClassResults

METRICS = ("accuracy", "balanced_accuracy", "loss")
# of classes by their number of training samples; each has a metric accuracy_GROUP
GROUPS = ("many", "medium", "few")


class Evaluation(Protocol):
    """Metrics of one task, accumulated over batches and reduced over ranks."""

    def update(self, logits: Tensor, target: Tensor) -> None: ...

    def compute(self) -> dict[str, Tensor]:
        """Values by name. UserError where outputs were not numbers."""
        ...

    def reset(self) -> None: ...

    def matrix(self) -> Tensor:
        """Confusion matrix [C, C] for the report, rows are true classes; empty where a task has no
        classes, or too many."""
        ...

    def class_counts(self) -> Tensor:
        """[3, C]: samples, correct ones and predictions of each class; empty without classes."""
        ...


class Task(Protocol):
    """A head by name: its number of outputs, its supervised term, its metrics."""

    name: str
    outputs: int

    def supervise(self, step: Step) -> None: ...

    def evaluation(self) -> nn.Module: ...


def shot_groups(counts: Tensor, shots: tuple[int, int] = (20, 100)) -> dict[str, Tensor]:
    """Masks [C] of the classes with few, a medium number of and many training samples: n_c < a,
    a ≤ n_c ≤ b, n_c > b for shots = (a, b).

    Groups without a class are omitted; empty where all classes are in one group. (Liu et al.,
    Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019, arXiv 1904.05160.)
    """
    low, high = shots
    of_size = (counts > high, (counts >= low) & (counts <= high), counts < low)
    masks = dict(zip(GROUPS, of_size, strict=True))
    filled = {name: mask for name, mask in masks.items() if mask.any()}
    return filled if len(filled) > 1 else {}


class ClassificationEvaluation(nn.Module):
    """accuracy = Σ_c n_cc / n; balanced_accuracy = mean of n_cc / n_c over the classes with test
    samples; accuracy_GROUP = the same mean over a group's classes, omitted where none has samples;
    loss = mean cross-entropy. Without any label there are no metrics.

    A sample whose logits are NaN has no class, so `compute` raises UserError.

    groups: masks [C] by name.
    """

    def __init__(self, classes: int, groups: Mapping[str, Tensor] | None = None):
        super().__init__()
        self.results = ClassResults(classes)
        # NaN is counted, not removed from the sum with a warning
        self.loss = SumMetric(nan_strategy="disable")
        self.undefined = SumMetric(nan_strategy="disable")
        self.groups = list(groups or {})
        for name, mask in (groups or {}).items():
            self.register_buffer(f"group_{name}", mask, persistent=False)

    def update(self, logits: Tensor, target: Tensor) -> None:
        self.results.update(logits, target)
        losses = cross_entropy(logits, target)
        self.loss.update(losses)
        self.undefined.update(losses.isnan().sum())

    def compute(self) -> dict[str, Tensor]:
        support, correct, _ = self.class_counts().float()
        undefined = int(self.undefined.compute())
        if undefined:
            raise UserError(
                f"the logits of {undefined} of {int(support.sum())} samples are NaN or infinite"
            )
        if not support.any():
            return {}
        recall = torch.where(support > 0, correct / support.clamp_min(1), torch.zeros_like(correct))
        values = {
            "accuracy": correct.sum() / support.sum(),
            "balanced_accuracy": recall.sum() / (support > 0).sum(),
            "loss": self.loss.compute() / support.sum(),
        }
        for name in self.groups:
            seen = self.get_buffer(f"group_{name}") & (support > 0)
            if seen.any():
                values[f"accuracy_{name}"] = recall[seen].mean()
        return values

    def reset(self) -> None:
        self.results.reset()
        self.loss.reset()
        self.undefined.reset()

    def matrix(self) -> Tensor:
        return self.results.compute()["matrix"]

    def class_counts(self) -> Tensor:
        return self.results.compute()["counts"]


class ClassificationTask:
    """Cross-entropy over `classes`.

    classes: names.
    partial: some samples have no label for this task (index -1); the mean is then over the samples
        with a label: Σ_i Σ_c t_ic ℓ_ic / Σ_i Σ_c t_ic, counted over the global batch of
        a micro-batch.
    weight: of the supervised term; 0 omits it.
    groups: masks [C] of classes with a metric of their own, by name.
    """

    def __init__(
        self,
        name: str,
        classes: list[str],
        partial: bool = False,
        weight: float = 1.0,
        groups: Mapping[str, Tensor] | None = None,
    ):
        self.name = name
        self.classes = classes
        self.partial = partial
        self.weight = weight
        self.outputs = len(classes)
        self.groups = groups

    def supervise(self, step: Step) -> None:
        """Add the supervised term: the cross-entropy of the adjusted logits of `labeled`."""
        if self.weight == 0:
            return
        target = step.inputs["labeled"].targets[self.name]
        # a target of mass m has m times the loss, so the mask only selects
        labels = label_mass(target) if self.partial else None
        step.term(
            step.term_name("supervised", self.name),
            step.classify("labeled", self.name, "labeled"),
            weight=self.weight,
            mask=None if labels is None else labels > 0,
            counts=labels,
            denominator="confident" if self.partial else "samples",
            task=self.name,
        )

    def evaluation(self) -> ClassificationEvaluation:
        return ClassificationEvaluation(self.outputs, self.groups)
