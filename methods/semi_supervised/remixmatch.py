"""ReMixMatch. Berthelot et al., ReMixMatch: Semi-Supervised Learning with Distribution Alignment
and Augmentation Anchoring, ICLR 2020, arXiv 1911.09785."""

from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.types import Share
from methods.mixing import dense_targets, draw_mixing
from methods.semi_supervised.alignment import RecentPredictions
from methods.semi_supervised.learned_views import learn_from_probes
from methods.semi_supervised.mixmatch import mix, rows
from methods.semi_supervised.targets import aligned, make_targets, mean_prediction
from recipes.contract import Context, Declaration, Method
from recipes.contract.environment import Environment
from recipes.networks.network import linear_head
from recipes.step import Embedded, Input, Step, Targets
from recipes.step.criterion import cross_entropy
from recipes.step.forward import concatenate
from recipes.step.ramps import Ramp

Weight = Annotated[float, Field(ge=0)]
ROTATION = 0.5  # weight of the rotation loss on pictures (paper)


def turned(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Pictures [N, C, S, S] turned by a quarter of a circle times their angle, and the angles,
    int64 [N]: 0, 1, 2, 3, 0, … from the row `first` of the global batch on."""
    angles = (torch.arange(len(x), device=x.device) + first) % 4
    result = x.clone()
    for angle in (1, 2, 3):
        own = slice((angle - first) % 4, None, 4)
        result[own] = x[own].rot90(angle, (2, 3))
    return result, angles


class ReMixMatch(Method):
    """L = mean CE(t', f(X')) + r(t) (λ_u mean CE(q', f(U')) + λ₁ mean CE(q, f(s₁(u))))
        + λ_r mean CE(angle, rotation head of turned s₁(u)).

    q = sharpen(align(p(w(u))), T) without gradient: the prediction on one weak view anchors all K
    strong views. Alignment multiplies it by the class distribution of the labels over that of the
    predictions on the last 128 batches, and normalizes. Strongly augmented labeled samples, the
    weak view and all strong views form one pool that is mixed as in MixMatch: X' are the labeled
    rows, U' the others. s₁ is the first strong view, unmixed.

    The guess comes from a separate forward in training mode without updates of batch-norm
    statistics; all else shares the step's one forward, K + 4 views of a batch. Turned pictures come
    with angles 0, 90, 180 and 270 degrees in turn. Texts cannot be turned: what remains there is
    alignment, anchoring and mixing of embeddings. Pictures whose class depends on their orientation
    (6 and 9) may lose by the rotation loss. With several ranks, partners come from the same rank.

    The paper's weights and ramp belong to a million steps: `weight=1.5 anchor_weight=0.5
    ramp_end=0.015625`. In a thousand steps on USPS with a hundred labels they reached 45.6 %,
    where labels alone reached 81.6.

    With `augmentation=ctaugment` the strong views are those of data.views.ctaugment (the recipe
    sets it), whose strengths learn from probes of the labeled samples after every batch.

    weight: λ_u of the mixed unlabeled loss, at least 0; 0.3 (ours; paper: 1.5).
    anchor_weight: λ₁ of the loss on the first strong view, at least 0; 0.1 (ours; paper: 0.5).
    rotation_weight: λ_r of the rotation loss, at least 0; null: 0.5 on pictures (paper), none on
        texts, where another value than 0 is refused.
    ramp_end: share of the run in which λ_u and λ₁ grow linearly, 0 to 1; 0.4 (ours; paper:
        0.015625).
    strong_views: number K of strong views, 1 to 16; 8 (paper; with 40 labels: 1).
    target: what is guessed from: `weak_anchor` (paper) or `strong_mean`. That is the mean
        prediction over the strong views.
    temperature: T of the sharpening, above 0, lower is sharper; 0.5 (paper).
    alpha: α of the Beta distribution of λ, above 0; 0.75 (paper).
    align: align guesses to the class distribution of the labels; true (paper).
    augmentation: the strong views: `strong`, those of data.views.strong, or `ctaugment` (paper).
    """

    def __init__(
        self,
        weight: Weight = 0.3,
        anchor_weight: Weight = 0.1,
        rotation_weight: Weight | None = None,
        ramp_end: Share = 0.4,
        strong_views: Annotated[int, Field(ge=1, le=16)] = 8,
        target: Literal["weak_anchor", "strong_mean"] = "weak_anchor",
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        alpha: Annotated[float, Field(gt=0)] = 0.75,
        align: bool = True,
        augmentation: Literal["strong", "ctaugment"] = "strong",
    ):
        self.weight = weight
        self.anchor_weight = anchor_weight
        self.rotation_weight = rotation_weight
        self.ramp = Ramp("linear", end=ramp_end)
        self.target = target
        self.temperature = temperature
        self.alpha = alpha
        self.align = align
        self.augmentation = augmentation
        further = (f"{augmentation}{i}" for i in range(2, strong_views + 1))
        self.strong = (augmentation, *further)

    def idle_settings(self) -> list[str]:
        # the unlabeled loss has several weights: none of them alone leaves the method idle
        return []

    def declare(self) -> Declaration:
        labeled: tuple[str, ...] = ("weak", self.augmentation)
        if self.augmentation == "ctaugment":
            labeled = (*labeled, "probe")
        return Declaration(
            views={"labeled": labeled, "unlabeled": ("weak", *self.strong)},
            slots=("mixer", "unlabeled_mixer", "pseudo_labels"),
            tags=("mixes_inputs", "soft_targets", "unlabeled_loss"),
            lower_on_collapse=("weight", "anchor_weight"),
            ddp_exact=False,
            ddp_difference="samples mix with partners on their own rank",
        )

    def check(self, environment: Environment) -> None:
        if environment.kind == "text" and self.augmentation == "ctaugment":
            problem = f"CTAugment changes pictures, and data={environment.data} is text"
            raise UserError(f"methods.{self.key}.augmentation", problem, "expected strong")
        key = f"methods.{self.key}.rotation_weight"
        if environment.kind == "text" and self.rotation_weight:
            problem = f"got {self.rotation_weight}, and texts cannot be turned"
            raise UserError(key, problem, "expected 0, or null")
        shape = environment.shape
        if shape is not None and shape[1] != shape[2] and self.rotation_weight != 0:
            problem = f"pictures of {shape[1]}×{shape[2]} cannot be turned by 90 degrees"
            raise UserError(key, problem, "expected 0")

    def rotation(self, context: Context) -> float:
        """λ_r on this run's data."""
        if self.rotation_weight is not None:
            return self.rotation_weight
        return ROTATION if context.network.kind == "image" else 0.0

    def build(self, context: Context) -> None:
        made = nn.ModuleDict()
        made["recent"] = nn.ModuleDict(
            {task: RecentPredictions(entry.outputs) for task, entry in context.tasks.items()}
        )
        if self.rotation(context):
            made["rotation"] = linear_head(context.network.feature_dim, 4)
        context.method_modules[self.key] = made

    def parameter_groups(self, context: Context) -> list[dict[str, Any]]:
        parameters = list(self.module(context).parameters())
        return [{"params": parameters}] if parameters else []

    # -- every batch -------------------------------------------------------------------------------
    def prepare(self, step: Step, context: Context) -> None:
        labeled = step.inputs["labeled"]
        weak = step.embedding("unlabeled", "weak")
        strong = [step.embedding("unlabeled", view) for view in self.strong]
        guesses = self.guess(weak, strong, step, context)
        known = step.embedding("labeled", self.augmentation)
        pool = concatenate([known, weak, *strong])
        targets = {
            task: torch.cat([own, *[guesses[task]] * (1 + len(strong))])
            for task, own in dense_targets(labeled.targets, context).items()
        }
        share, partner = draw_mixing(step, self.key, len(pool.x), self.alpha, per_sample=True)
        mixed, targets = mix(pool, targets, partner, share)
        embedded, labels = rows(mixed, targets, slice(labeled.size))
        step.change("labeled", embedded=embedded, targets=labels)
        unlabeled = rows(mixed, targets, slice(labeled.size, None))
        step.add(Input(f"{self.key}/unlabeled", *unlabeled))
        if self.anchor_weight:
            step.add(Input(f"{self.key}/anchored", strong[0], guesses))
        if self.rotation(context):
            first = step.randomness.rank * len(weak.x)
            x, angles = turned(strong[0].x, first)
            step.add(Input(f"{self.key}/turned", Embedded(x)))
            step.scratch[self.key] = angles

    @torch.no_grad()
    def guess(
        self, weak: Embedded, strong: list[Embedded], step: Step, context: Context
    ) -> Targets:
        """Aligned and sharpened labels [U, C] of the unlabeled samples, by task."""
        views = [weak] if self.target == "weak_anchor" else strong
        output = context.extra_forward(concatenate(views))
        guesses = {}
        for task in step.tasks:
            scores = mean_prediction(output.logits[task].chunk(len(views)))
            align = partial(self.aligned, task=task, context=context) if self.align else None
            guesses[task], pseudo = make_targets(scores, align=align, temperature=self.temperature)
            step.publish_pseudo_labels(task, pseudo)
            step.scratch[f"{self.key}/{task}"] = scores.exp()
        return guesses

    def aligned(self, probabilities: Tensor, task: str, context: Context) -> Tensor:
        counts = context.statistics.counts(task)
        seen = self.module(context)["recent"][task].mean()
        return aligned(probabilities, counts / counts.sum(), seen)

    def terms(self, step: Step, context: Context) -> None:
        ramp = self.ramp(step.progress)
        for task in step.tasks:
            name = step.term_name(self.key, task)
            mixed = f"{self.key}/unlabeled"
            # a partner without a label takes mass from the mixed target
            complete = step.inputs[mixed].targets[task].sum(1) > 1.0 - 1e-3
            values = step.classify(mixed, task, "pseudo")
            step.term(name, values, weight=self.weight * ramp, mask=complete, task=task)
            if self.anchor_weight:
                values = step.classify(f"{self.key}/anchored", task, "pseudo")
                anchor = step.term_name(f"{self.key}/anchor", task)
                step.term(anchor, values, weight=self.anchor_weight * ramp, task=task)
        if self.rotation(context):
            features = step.outputs[f"{self.key}/turned"].features
            logits = self.module(context)["rotation"](features).float()
            values = cross_entropy(logits, step.scratch[self.key])
            step.term(f"{self.key}/rotation", values, weight=self.rotation(context))

    def after_batch(self, step: Step, context: Context) -> None:
        if self.align:
            for task in step.tasks:
                recent = self.module(context)["recent"][task]
                recent.add(step.scratch[f"{self.key}/{task}"])
        if self.augmentation == "ctaugment":
            learn_from_probes(self.augmentation, step, context)
