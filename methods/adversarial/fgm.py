"""Fast gradient method. Miyato, Dai and Goodfellow, Adversarial Training Methods for
Semi-Supervised Text Classification, ICLR 2017, arXiv 1605.07725."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from methods.adversarial.attacks.fgsm import fgsm
from methods.adversarial.attacks.threat import Norm, Radius, Threat, radius
from methods.adversarial.perturbation import (
    LAST,
    PRECISIONS,
    Attacking,
    add_delta,
    labels_objective,
)
from recipes.contract import Context, Declaration
from recipes.step import Input, Step
from recipes.step.criterion import label_mass


class FGM(Attacking):
    """L = CE(e) + λ CE(e + r), r = eps g / ‖g‖₂, g = ∇_e CE without gradient: the word embeddings
    of a text, or pixels.

    The norm is of one sample over all its tokens, special ones included (as in public code),
    padding excluded. Activations are perturbed, not the embedding matrix as in a widespread
    snippet, which couples the samples of a batch and has no effect if the matrix is frozen. g is
    computed in evaluation mode.

    eps: length of the perturbation of a sample, in units of the embedded input, at least 0; 1. The
        paper's 5 belongs to normalised embeddings.
    norm: norm of the perturbation: `l2` (paper) or `linf`, where r = eps sign g.
    weight: factor λ of the loss on perturbed inputs, at least 0; 1: the sum of both losses (paper).
    """

    neutral = {"eps": 0}
    declaration = Declaration(
        slots=("attack",),
        tags=("attacks_labeled",),
        after=LAST,
        precisions=PRECISIONS,
        lower_on_collapse=("eps",),
    )

    def __init__(
        self, eps: Radius = 1.0, norm: Norm = "l2", weight: Annotated[float, Field(ge=0)] = 1.0
    ):
        self.eps = radius(eps)
        self.norm = norm
        self.weight = weight

    def craft(self, entry: Input, step: Step, context: Context) -> Tensor:
        x = entry.embedded.x.detach().float()
        threat = Threat.around(entry.embedded, self.norm, self.eps)
        return fgsm(labels_objective(entry, context), x, threat) - x

    def prepare(self, step: Step, context: Context) -> None:
        entry = step.inputs["labeled"]
        attacked = add_delta(entry.embedded, self.delta(step, context))
        step.add(Input(self.key, attacked, entry.targets))

    def terms(self, step: Step, context: Context) -> None:
        for task, target in step.inputs[self.key].targets.items():
            # a missing label is -1, or a row of zeros once targets are dense
            labels = label_mass(target)
            step.term(
                step.term_name(self.key, task),
                step.classify(self.key, task, "labeled"),
                weight=self.weight,
                mask=labels > 0,
                counts=labels,
                denominator="confident",
                task=task,
            )
