"""Pseudo-Label. Lee, The simple and efficient semi-supervised learning method for deep neural
networks, ICML 2013 workshop; the entropy form after Grandvalet and Bengio 2004."""

from functools import partial
from typing import Annotated

from pydantic import Field

from methods.semi_supervised.consistency import entropy
from methods.semi_supervised.targets import confident, make_targets
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.ramps import Ramp, Share


class PseudoLabel(Method):
    """Lu = α(t) (1/U) Σ_b m_b H(ŷ_b, f(u_b)), ŷ = argmax f(u) of the *same* forward, m = 1[max p ≥
    τ].

    Only the target is without gradient, the logits are not. α(t) is 0 up to ramp_start, grows
    linearly to `weight` at ramp_end, both as shares of the run. The ramp is essential: early labels
    are wrong.

    threshold τ: .95 (the modern form; the paper has none: 0). weight α_f: 1 (paper: 3).
    entropy_weight: weight of mean H(p(u)), with gradient; 0. own_statistics: batch normalisation
    counts labeled samples only (True, as the re-evaluations do); False puts the unlabeled ones into
    the same forward.
    """

    declaration = Declaration(
        views={"unlabeled": ("weak",)},
        slots=("pseudo_labels",),
        tags=("unlabeled_loss",),
    )

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0)] = 0.95,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        ramp_start: Share = 0.0,
        ramp_end: Share = 0.4,
        entropy_weight: Annotated[float, Field(ge=0)] = 0.0,
        own_statistics: bool = True,
    ):
        self.threshold = threshold
        self.weight = weight
        self.entropy_weight = entropy_weight
        self.ramp = Ramp("linear", ramp_start, ramp_end)
        self.counted = not own_statistics

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak", counted=self.counted)

    def terms(self, step: Step, context: Context) -> None:
        alpha = self.weight * self.ramp(step.progress)
        for task in step.tasks:
            mask = partial(confident, threshold=self.threshold)
            labels, believed = make_targets(
                step.logits("unlabeled/weak", task), harden=True, mask=mask
            )
            step.believe(task, believed)
            values = step.classify("unlabeled/weak", task, "pseudo", labels)
            step.term(
                step.named(self.key, task), values, weight=alpha, mask=believed.mask, task=task
            )
            if self.entropy_weight:
                name = step.named(f"{self.key}/entropy", task)
                logits = step.loss_logits("unlabeled/weak", task, "pseudo", labels)
                step.term(
                    name,
                    entropy(logits),
                    weight=self.entropy_weight * self.ramp(step.progress),
                    task=task,
                )
