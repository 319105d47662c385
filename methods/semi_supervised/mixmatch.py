"""MixMatch. Berthelot et al., MixMatch: A Holistic Approach to Semi-Supervised Learning, NeurIPS
2019, arXiv 1905.02249."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Share, Steps
from methods.mixing import at_least_half, blend, blend_embedded, dense_targets, draw_mixing
from methods.semi_supervised.alignment import AlignsToLabels
from methods.semi_supervised.consistency import squared_distance
from methods.semi_supervised.targets import make_targets, mean_prediction
from recipes.contract import Context, Declaration
from recipes.step import Embedded, Input, Step, Targets
from recipes.step.forward import concatenate
from recipes.step.ramps import Ramp


def mix(
    embedded: Embedded, targets: Targets, partner: Tensor, share: Tensor
) -> tuple[Embedded, Targets]:
    """x' = λ' x + (1-λ') x_partner and the same for all targets, with λ' = max(λ, 1-λ).

    share: λ [N]. partner: [N].
    """
    share = at_least_half(share)
    mixed_targets = {task: blend(y, y[partner], share) for task, y in targets.items()}
    return blend_embedded(embedded, partner, share), mixed_targets


def rows(embedded: Embedded, targets: Targets, part: slice) -> tuple[Embedded, Targets]:
    """These rows of inputs and targets."""
    mask = None if embedded.mask is None else embedded.mask[part]
    part_targets = {task: y[part] for task, y in targets.items()}
    return Embedded(embedded.x[part], mask), part_targets


class MixMatch(AlignsToLabels):
    """L = mean CE(t', f(X')) + λ_u r(t) · mean (1/C) ‖q' - p(U')‖²: guess, sharpen, mix.

    q = sharpen((1/K) Σ_k p(u_k), T) over K weak views of an unlabeled sample, without gradient.
    Labeled samples and all views form one pool W, in which every sample is mixed with a partner,
    with one λ ~ Beta(α, α) per sample and λ' = max(λ, 1-λ); X' are the mixed labeled rows, U' the
    others. Inputs are mixed after embedding: pixels, or token embeddings.

    Guesses come from a separate forward in training mode that does not update batch-norm
    statistics; X' and U' then share the step's one forward, so the authors' interleaving of batches
    is not needed. Rows of U' whose partner has no label (several tasks, some missing) are masked.
    With several ranks, partners come from the same rank.

    The published weight and ramp, 75 and 1/64, belong to a million steps: 16384 of them come before
    the full weight. A short run then falls to one class, whose views agree perfectly. They are
    `weight=75 ramp_end=0.015625 align=0`.

    weight: largest weight λ_u of the unlabeled loss, at least 0; 25 (ours; paper on CIFAR-10: 75,
        CIFAR-100: 150, SVHN: 250).
    ramp_end: share of the run in which the weight grows linearly, 0 to 1; 1 (ours; paper: 1/64).
    views: number K of weak views behind a guess, 1 to 8; 2 (paper).
    temperature: T of the sharpening, above 0, lower is sharper; 0.5 (paper).
    alpha: α of the Beta distribution of λ, above 0; 0.75 (paper).
    align: batches whose mean guess is aligned with the frequencies of the labels; 0: none (paper);
        32 (ours), which keeps runs on texts from falling to one class. It assumes that unlabeled
        samples have the labels' frequencies.
    """

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 25.0,
        ramp_end: Share = 1.0,
        views: Annotated[int, Field(ge=1, le=8)] = 2,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        alpha: Annotated[float, Field(gt=0)] = 0.75,
        align: Steps = 32,
    ):
        self.weight = weight
        self.align = align
        self.ramp = Ramp("linear", end=ramp_end)
        self.temperature = temperature
        self.alpha = alpha
        self.views = ("weak", *(f"weak{i}" for i in range(2, views + 1)))

    def declare(self) -> Declaration:
        return Declaration(
            views={"unlabeled": self.views},
            slots=("mixer", "unlabeled_mixer", "pseudo_labels"),
            tags=("mixes_inputs", "soft_targets", "unlabeled_loss"),
            lower_on_collapse=("weight",),
            ddp_exact=False,
            ddp_difference="samples mix with partners on their own rank",
        )

    def prepare(self, step: Step, context: Context) -> None:
        labeled = step.inputs["labeled"]
        views = [step.embedding("unlabeled", view) for view in self.views]
        pool = concatenate([labeled.embedded, *views])
        guesses = self.guess(views, step, context)
        targets = {
            task: torch.cat([known, *[guesses[task]] * len(views)])
            for task, known in dense_targets(labeled.targets, context).items()
        }
        share, partner = draw_mixing(step, self.key, len(pool.x), self.alpha, per_sample=True)
        mixed, targets = mix(pool, targets, partner, share)
        embedded, labels = rows(mixed, targets, slice(labeled.size))
        step.change("labeled", embedded=embedded, targets=labels)
        unlabeled = rows(mixed, targets, slice(labeled.size, None))
        step.add(Input(f"{self.key}/unlabeled", *unlabeled))

    @torch.no_grad()
    def guess(self, views: list[Embedded], step: Step, context: Context) -> Targets:
        """Sharpened labels [U, C] of the unlabeled samples, by task."""
        output = context.extra_forward(concatenate(views))
        guesses = {}
        for task in step.tasks:
            scores = mean_prediction(output.logits[task].chunk(len(views)))
            align = self.alignment(scores, task, step, context)
            guesses[task], pseudo = make_targets(scores, align=align, temperature=self.temperature)
            step.publish_pseudo_labels(task, pseudo)
        return guesses

    def terms(self, step: Step, context: Context) -> None:
        name = f"{self.key}/unlabeled"
        weight = self.weight * self.ramp(step.progress)
        for task in step.tasks:
            target = step.inputs[name].targets[task]
            p = torch.softmax(step.loss_logits(name, task, "pseudo"), dim=1)
            # a partner without a label takes mass from the mixed target
            complete = target.sum(1) > 1.0 - 1e-3
            values = squared_distance(p, target)
            step.term(
                step.term_name(self.key, task), values, weight=weight, mask=complete, task=task
            )
