"""Pseudo-Label. Lee, The simple and efficient semi-supervised learning method for deep neural
networks, ICML 2013 workshop; the entropy form after Grandvalet and Bengio 2004."""

from typing import Annotated

from pydantic import Field

from foundation.types import Share
from methods.semi_supervised.confidence_threshold import ConfidenceThreshold
from methods.semi_supervised.consistency import entropy
from recipes.contract import Context, Declaration
from recipes.step import Step
from recipes.step.ramps import Ramp


class PseudoLabel(ConfidenceThreshold):
    """Lu = α(t) (1/U) Σ_b m_b H(ŷ_b, f(u_b)), ŷ = argmax f(u) of the *same* forward, m = 1[max p ≥
    τ].

    Targets have no gradient; the logits of the loss do. α(t) is 0 up to ramp_start and grows
    linearly to `weight` at ramp_end. The ramp is essential: early labels are wrong.

    threshold: confidence τ that a pseudo-label must reach; 0.95 (modern form); 0: every label
        (paper).
    weight: largest weight α_f of the unlabeled loss, at least 0; 1 (paper: 3).
    ramp_start: share of the run, 0 to 1, after which the weight begins to grow; 0.
    ramp_end: share of the run after which the weight is full, 0 to 1; 0.4.
    entropy_weight: weight of mean H(p(u)), with gradient, at least 0; 0: none.
    own_statistics: BatchNorm statistics of the labeled samples alone; true (re-evaluations). False
        puts the unlabeled samples into the same forward.
    """

    neutral = {"ramp_start": 1}
    declaration = Declaration(
        views={"unlabeled": ("weak",)},
        slots=("pseudo_labels",),
        tags=("unlabeled_loss",),
        lower_on_collapse=("weight",),
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
        self.ramp_start = ramp_start
        self.ramp = Ramp("linear", ramp_start, ramp_end)
        self.updates_bn_stats = not own_statistics

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak", updates_bn_stats=self.updates_bn_stats)

    def terms(self, step: Step, context: Context) -> None:
        ramp = self.ramp(step.progress)
        alpha = self.weight * ramp
        for task in step.tasks:
            labels, pseudo = self.pseudo_labels(step, "unlabeled/weak", task, context)
            values = step.classify("unlabeled/weak", task, "pseudo", labels)
            step.term(
                step.term_name(self.key, task), values, weight=alpha, mask=pseudo.mask, task=task
            )
            if self.entropy_weight:
                name = step.term_name(f"{self.key}/entropy", task)
                logits = step.loss_logits("unlabeled/weak", task, "pseudo", labels)
                step.term(name, entropy(logits), weight=self.entropy_weight * ramp, task=task)
