"""FixMatch. Sohn et al., Simplifying Semi-Supervised Learning with Consistency and Confidence,
NeurIPS 2020, arXiv 2001.07685."""

from typing import Annotated, Literal

from pydantic import Field

from foundation.types import Share, Steps
from methods.semi_supervised.alignment import AlignsToLabels
from methods.semi_supervised.confidence_threshold import ConfidenceThreshold
from recipes.contract import Context, Declaration
from recipes.step import Step
from recipes.step.ramps import Ramp
from recipes.step.terms import Denominator


class FixMatch(AlignsToLabels, ConfidenceThreshold):
    """Lu = (1/U) Σ_b m_b H(ŷ_b, f(s(u_b))): confident labels of the weak view are the targets of
    the strong view.

    q = softmax(f(w(u))), ŷ = argmax q, m = 1[max q ≥ τ]. Targets are predicted by the current
    student in training mode, in the same forward as all other inputs. Masked samples count in the
    denominator. Labels are the argmax of raw logits, whatever adjusts the logits of the loss.

    threshold: confidence τ that a pseudo-label must reach; 0.95 (paper); above 1 no label does and
        training is supervised.
    weight: factor λ_u of the unlabeled loss, at least 0; 1 (paper).
    mask_reduction: denominator of the unlabeled loss: `all` (U, paper) or `confident` samples.
        `confident` counts those of the global batch (with accumulation: micro-batch) and is a
        different, much stronger method early on.
    warmup: share of the run, 0 to 1, on labels alone; 0 (paper). For heads of few classes, which
        start out confident by chance (ours).
    align: batches whose mean prediction is aligned with the frequencies of the labels; 0: none
        (paper); 32 (ours), which keeps runs on texts from falling to one class. It assumes that
        unlabeled samples have the labels' frequencies.
    """

    neutral = {"warmup": 1}
    declaration = Declaration(
        views={"unlabeled": ("weak", "strong")},
        slots=("pseudo_labels",),
        tags=("unlabeled_loss",),
        lower_on_collapse=("weight",),
    )

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0)] = 0.95,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        mask_reduction: Literal["all", "confident"] = "all",
        warmup: Share = 0.0,
        align: Steps = 32,
    ):
        self.threshold = threshold
        self.weight = weight
        self.denominator: Denominator = "samples" if mask_reduction == "all" else "confident"
        self.warmup = warmup
        self.ramp = Ramp("constant", start=warmup)
        self.align = align

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak", grad=False)
        step.request("unlabeled", "strong")

    def terms(self, step: Step, context: Context) -> None:
        weight = self.weight * self.ramp(step.progress)
        for task in step.tasks:
            align = self.alignment(step.logits("unlabeled/weak", task), task, step, context)
            labels, pseudo = self.pseudo_labels(step, "unlabeled/weak", task, context, align)
            step.term(
                step.term_name(self.key, task),
                step.classify("unlabeled/strong", task, "pseudo", labels),
                weight=weight,
                mask=pseudo.mask,
                denominator=self.denominator,
                task=task,
            )
