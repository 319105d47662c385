"""FixMatch. Sohn et al., Simplifying Semi-Supervised Learning with Consistency and Confidence,
NeurIPS 2020, arXiv 2001.07685."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from foundation.types import Share
from methods.semi_supervised.targets import Mask, confident, make_targets
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.ramps import Ramp


class FixMatch(Method):
    """Lu = (1/U) Σ_b m_b H(ŷ_b, f(s(u_b))): the weak view's confident label teaches the strong
    view.

    q = softmax(f(w(u))), ŷ = argmax q, m = 1[max q ≥ τ]. Targets come from the present student, in
    training mode, in the same forward as everything else. Masked samples count in the denominator.
    The labels are the argmax of raw logits, whatever adjusts the logits of the loss.

    threshold: confidence τ that a pseudo-label must reach; 0.95 (paper); above 1 no label does and
        training is supervised.
    weight: factor λ_u of the unlabeled loss, at least 0; 1 (paper).
    mask_reduction: denominator of the unlabeled loss: `all` (U, paper) or `confident` samples.
        `confident` counts those of the global batch and is a different, much stronger method early
        on.
    warmup: share of the run, 0 to 1, on labels alone; 0 (paper). For heads of few classes, which
        start out confident by chance (ours).
    """

    declaration = Declaration(
        views={"unlabeled": ("weak", "strong")},
        slots=("pseudo_labels",),
        tags=("unlabeled_loss",),
    )

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0)] = 0.95,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        mask_reduction: Literal["all", "confident"] = "all",
        warmup: Share = 0.0,
    ):
        self.threshold = threshold
        self.weight = weight
        self.denominator: Literal["samples", "confident"] = (
            "samples" if mask_reduction == "all" else "confident"
        )
        self.ramp = Ramp("constant", start=warmup)

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak", grad=False)
        step.request("unlabeled", "strong")

    def mask(self, task: str, context: Context) -> Mask:
        """Which samples are sure enough to teach."""
        return partial(confident, threshold=self.threshold)

    def terms(self, step: Step, context: Context) -> None:
        for task in step.tasks:
            mask = self.mask(task, context)
            labels, pseudo = make_targets(
                step.logits("unlabeled/weak", task), harden=True, mask=mask
            )
            step.publish_pseudo_labels(task, pseudo)
            step.term(
                step.term_name(self.key, task),
                step.classify("unlabeled/strong", task, "pseudo", labels),
                weight=self.weight * self.ramp(step.progress),
                mask=pseudo.mask,
                denominator=self.denominator,
                task=task,
            )
