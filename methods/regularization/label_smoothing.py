"""Label smoothing. Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, arXiv 1512.00567."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from recipes.criterion import one_hot
from recipes.method import Declaration, Method
from recipes.recipe import Recipe
from recipes.step import Step

Convention = Literal["uniform", "other_classes"]


def smooth(target: Tensor, epsilon: float, convention: Convention) -> Tensor:
    """`uniform` (torch, timm): (1-ε) t + ε/K. `other_classes` (the original): (1-ε) t + ε/(K-1) (1 - t).

    target: dense [N, K] rows of sum s (1, or 0 for a missing label, which stays missing).
    The second equals the first with ε·K/(K-1) in its place.
    """
    classes, mass = target.shape[1], target.sum(1, keepdim=True)
    if convention == "uniform":
        return (1.0 - epsilon) * target + epsilon / classes * mass
    return (1.0 - epsilon) * target + epsilon / (classes - 1) * (mass - target)


class LabelSmoothing(Method):
    """Targets of the labeled input become soft, t' = (1-ε) t + ε/K: cross-entropy against the smoothed distribution.

    epsilon ε: .1. convention: `uniform` (torch's) or `other_classes`. Works on mixed targets as well.
    """

    declaration = Declaration(slots=("smoothing",), tags=("soft_targets",), after=("mixes_inputs",), sharded=True)

    def __init__(self, epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.1, convention: Convention = "uniform"):
        self.epsilon, self.convention = epsilon, convention

    def prepare(self, step: Step, recipe: Recipe) -> None:
        targets = {
            task: smooth(one_hot(target, recipe.tasks[task].outputs), self.epsilon, self.convention)
            for task, target in step.inputs["labeled"].targets.items()
        }
        step.change("labeled", targets=targets)
