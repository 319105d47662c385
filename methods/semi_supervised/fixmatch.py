"""FixMatch. Sohn et al., Simplifying Semi-Supervised Learning with Consistency and Confidence,
NeurIPS 2020, arXiv 2001.07685."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from methods.semi_supervised.targets import Mask, confident, make_targets
from recipes.contract import Context, Declaration, Method
from recipes.step import Step
from recipes.step.ramps import Ramp, Share


class FixMatch(Method):
    """Lu = (1/U) Σ_b m_b H(ŷ_b, f(s(u_b))): the weak view's confident label teaches the strong
    view.

    q = softmax(f(w(u))), ŷ = argmax q, m = 1[max q ≥ τ]. Targets come from the present student, in
    training mode, in the same forward as everything else. Masked samples count in the denominator.
    The labels are the argmax of raw logits, whatever adjusts the logits of the loss.

    threshold τ: .95; above 1 leaves supervised training. weight λ_u: 1. mask_reduction: `all`
    divides by U (paper), `kept` by the number of confident samples of the global batch (a
    different, much stronger method early on). warmup: share of the run on labels alone, for heads
    of few classes that start out confident by chance (ours; 0).
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
        mask_reduction: Literal["all", "kept"] = "all",
        warmup: Share = 0.0,
    ):
        self.threshold = threshold
        self.weight = weight
        self.denominator: Literal["samples", "kept"] = (
            "samples" if mask_reduction == "all" else "kept"
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
            labels, believed = make_targets(
                step.logits("unlabeled/weak", task), harden=True, mask=mask
            )
            step.believe(task, believed)
            step.term(
                step.named(self.key, task),
                step.classify("unlabeled/strong", task, "pseudo", labels),
                weight=self.weight * self.ramp(step.progress),
                mask=believed.mask,
                denominator=self.denominator,
                task=task,
            )
