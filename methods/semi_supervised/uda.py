"""UDA. Xie, Dai, Hovy, Luong and Le, Unsupervised Data Augmentation for Consistency Training,
NeurIPS 2020, arXiv 1904.12848."""

import math
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Steps
from methods.semi_supervised.alignment import AlignsToLabels
from methods.semi_supervised.consistency import entropy
from methods.semi_supervised.targets import confident, make_targets
from recipes.contract import Context, Declaration
from recipes.step import Step
from recipes.step.criterion import kl_divergence, label_mass, of_target

Annealing = Literal["none", "linear", "exp", "log"]


def annealing_threshold(kind: Annealing, fraction: float, classes: int) -> float:
    """η = g(s)(1 - 1/C) + 1/C at the share s of the run: linear g = s, exp e^{5(s-1)}, log 1 -
    e^{-5s}."""
    growth = {
        "linear": fraction,
        "exp": math.exp(5.0 * (fraction - 1.0)),
        "log": 1.0 - math.exp(-5.0 * fraction),
    }
    return growth[kind] * (1.0 - 1.0 / classes) + 1.0 / classes


class UDA(AlignsToLabels):
    """Lu = (1/U) Σ_b m_b KL(sharpen(q_b, T) ‖ p(s(u_b))), q = sg p(w(u)), m = 1[max q > β] of the
    unsharpened q.

    The target is sharpened, the mask uses max q before sharpening: several public implementations
    omit one of the two.

    threshold: confidence β that the weak view must exceed; 0.8 (paper on CIFAR-10).
    temperature: T of the sharpening, above 0, lower is sharper; 0.4 (paper on CIFAR-10).
    weight: factor λ of the unlabeled loss, at least 0; 1 (paper).
    annealing: growth of η(t), above whose confidence labels are left out: `none`, `linear`, `exp`
        or `log`. Training signal annealing (TSA) averages the remaining CE over the global batch
        (with accumulation: over each micro-batch);
        none for vision, `linear` for text with few labels.
    entropy_weight: weight of mean H(p(w(u))), with gradient, at least 0; 0: none.
    align: batches whose mean prediction is aligned with the frequencies of the labels; 0: none
        (paper); 32 (ours), which keeps runs on texts from falling to one class. It assumes that
        unlabeled samples have the labels' frequencies.
    """

    declaration = Declaration(
        views={"unlabeled": ("weak", "strong")},
        slots=("pseudo_labels", "labeled_mask"),
        tags=("unlabeled_loss",),
        lower_on_collapse=("weight",),
    )

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0)] = 0.8,
        temperature: Annotated[float, Field(gt=0)] = 0.4,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        annealing: Annealing = "none",
        entropy_weight: Annotated[float, Field(ge=0)] = 0.0,
        align: Steps = 32,
    ):
        self.threshold = threshold
        self.temperature = temperature
        self.weight = weight
        self.annealing = annealing
        self.entropy_weight = entropy_weight
        self.align = align

    def idle_settings(self) -> list[str]:
        # no probability is above 1: no sample would be kept
        unreachable = ["threshold"] if self.threshold > 1 else []
        return [] if self.entropy_weight else [*super().idle_settings(), *unreachable]

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak", grad=self.entropy_weight > 0)
        step.request("unlabeled", "strong")

    def terms(self, step: Step, context: Context) -> None:
        mask = partial(confident, threshold=self.threshold, strict=True)
        for task in step.tasks:
            weak = step.logits("unlabeled/weak", task)
            target, pseudo = make_targets(
                weak,
                align=self.alignment(weak, task, step, context),
                temperature=self.temperature,
                mask=mask,
            )
            step.publish_pseudo_labels(task, pseudo)
            strong = step.loss_logits("unlabeled/strong", task, "pseudo")
            values = kl_divergence(target, strong)
            name = step.term_name(self.key, task)
            step.term(name, values, weight=self.weight, mask=pseudo.mask, task=task)
            if self.entropy_weight:
                name = step.term_name(f"{self.key}/entropy", task)
                step.term(name, entropy(weak), weight=self.entropy_weight, task=task)
            if self.annealing != "none":
                self._anneal(step, task)

    def _anneal(self, step: Step, task: str) -> None:
        """Mask samples of the supervised term whose true class has a probability above η(t)."""
        supervised = step.terms[step.term_name("supervised", task)]
        logits = step.logits("labeled", task)
        target = step.inputs["labeled"].targets[task]
        fraction = step.progress.fraction
        threshold = annealing_threshold(self.annealing, fraction, classes=logits.shape[1])
        mask = unsure(logits, target, threshold)
        if supervised.counts is not None:
            supervised.counts = supervised.counts * mask
        supervised.mask = mask if supervised.mask is None else supervised.mask * mask
        supervised.denominator = "confident"


@torch.no_grad()
def unsure(logits: Tensor, target: Tensor, threshold: float) -> Tensor:
    """1[p(y|x) ≤ η], [N] float32; for dense targets p(y|x) is Σ_c t_c p_c / Σ_c t_c."""
    p = torch.softmax(logits, dim=1)
    # multiplied, not divided: a missing label has no mass, and counts nowhere
    limit = threshold * label_mass(target)
    return (of_target(p, target) <= limit).float()
