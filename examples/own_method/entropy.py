"""Grandvalet and Bengio, Semi-supervised Learning by Entropy Minimization, NeurIPS 2004."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from recipes.contract import Declaration, Method


def entropy(logits: Tensor) -> Tensor:
    """[N, C] -> [N], H(p) of p = softmax(logits), between 0 and log C."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


class EntropyMinimization(Method):
    """L = (1/U) Σ_u H(p(u)) over the unlabeled samples.

    weight: factor of this term, at least 0; 0.1.
    """

    declaration = Declaration(views={"unlabeled": ("weak",)}, tags=("unlabeled_loss",))

    def __init__(self, weight: Annotated[float, Field(ge=0)] = 0.1):
        self.weight = weight

    def prepare(self, step, context):
        step.request("unlabeled", "weak")

    def terms(self, step, context):
        for task in step.tasks:
            values = entropy(step.logits("unlabeled/weak", task))
            step.term(f"{self.key}/{task}", values, weight=self.weight, task=task)
