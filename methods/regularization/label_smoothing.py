"""Label smoothing. Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, arXiv
1512.00567."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.criterion import one_hot

Convention = Literal["uniform", "other_classes"]
MOST_IN_TABLE = 1000  # classes: with 100,000 the table would need 40 GB


def smooth(target: Tensor, epsilon: float, convention: Convention) -> Tensor:
    """`uniform` (torch, timm): (1-ε) t + ε/K. `other_classes` (the original): (1-ε) t + ε/(K-1) (1
    - t).

    The second equals the first with ε·K/(K-1) in place of ε.

    target: dense [N, K], rows with sum 1, or 0 for a missing label, which stays missing.
    """
    classes = target.shape[1]
    mass = target.sum(1, keepdim=True)
    if convention == "uniform":
        return (1.0 - epsilon) * target + epsilon / classes * mass
    return (1.0 - epsilon) * target + epsilon / (classes - 1) * (mass - target)


class Smoothed(nn.Module):
    """The smoothed distribution of every class, one per row, so that smoothing is one gather. The
    last row, at index -1, belongs to a missing label. Without a table beyond `MOST_IN_TABLE`
    classes."""

    table: Tensor

    def __init__(self, classes: int, epsilon: float, convention: Convention):
        super().__init__()
        self.classes = classes
        self.epsilon = epsilon
        self.convention = convention
        tabulated = classes if classes <= MOST_IN_TABLE else 0
        labels = one_hot(torch.arange(-1, tabulated), tabulated).roll(-1, 0)
        rows = smooth(labels, epsilon, convention) if tabulated else labels
        self.register_buffer("table", rows, persistent=False)

    def forward(self, target: Tensor) -> Tensor:
        """[N, C], the smoothed distributions of labels [N]."""
        if len(self.table) > 1:
            return self.table[target]
        return smooth(one_hot(target, self.classes), self.epsilon, self.convention)


class LabelSmoothing(Method):
    """Soft targets t' = (1-ε) t + ε/K of the labeled input: cross-entropy with the smoothed
    distribution.

    Mixed targets are smoothed as well.

    epsilon: ε, probability taken from the label, in [0, 1); 0.1 (paper).
    convention: classes that share ε: `uniform` over all K (paper, torch) or `other_classes`.
    """

    neutral = {"epsilon": 0}
    declaration = Declaration(
        slots=("smoothing",), tags=("soft_targets",), after=("mixes_inputs",), sharded=True
    )

    def __init__(
        self, epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.1, convention: Convention = "uniform"
    ):
        self.epsilon = epsilon
        self.convention = convention

    def build(self, context: Context) -> None:
        tables = {
            name: Smoothed(task.outputs, self.epsilon, self.convention)
            for name, task in context.tasks.items()
        }
        context.method_modules[self.key] = nn.ModuleDict(tables)

    def prepare(self, step: Step, context: Context) -> None:
        tables = context.method_modules[self.key]
        targets = {}
        for task, target in step.inputs["labeled"].targets.items():
            if target.ndim == 1:
                targets[task] = tables[task](target)
            else:
                targets[task] = smooth(target, self.epsilon, self.convention)
        step.change("labeled", targets=targets)
