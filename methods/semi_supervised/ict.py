"""Interpolation Consistency Training. Verma et al., Interpolation Consistency Training for
Semi-Supervised Learning, IJCAI 2019, arXiv 1903.03825."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from methods.mixing import blend, blend_embedded, draw_mixing
from methods.semi_supervised.consistency import squared_distance
from methods.semi_supervised.targets import make_targets, scores_of
from recipes.contract import BatchMoments, Context, Declaration, Horizon, Method, TeacherRequest
from recipes.step import Input, Step
from recipes.step.ramps import Ramp, RampKind, Share

Space = Literal["probabilities", "logits"]


@torch.no_grad()
def mixed_scores(logits: Tensor, partner: Tensor, share: Tensor, space: Space) -> Tensor:
    """Scores of q = λ softmax(z_j) + (1-λ) softmax(z_k), or z of q = softmax(λ z_j + (1-λ) z_k):
    [N, C]."""
    if space == "logits":
        return blend(logits, logits[partner], share)
    p = torch.softmax(logits, dim=1)
    return scores_of(blend(p, p[partner], share))


class ICT(Method):
    """L = CE + w(t) · mean (1/C) ‖p(u_m) - q‖², u_m = λ u_j + (1-λ) u_k, q = λ sg p'(u_j) + (1-λ)
    sg p'(u_k), with p' the averaged teacher on the unmixed inputs and λ ~ Beta(α, α), one for a
    batch.

    Teacher and mixing use the same weak view; partners are a permutation of the unlabeled batch, on
    several ranks of the rank's own rows. Mixing is on the embedded input: pixels, or token
    embeddings under the union of their masks. The authors' runs mix the labeled batch as well: add
    regularization=mixup. The teacher is what is evaluated.

    weight w_max: 100; ramp: sigmoid over the first ramp_end of the run (100 of 400 epochs). alpha
        α: 1 (.1 on SVHN).
    mix_space: `probabilities` (the paper's formula) or `logits` (the authors' code mixes before the
        softmax).
    ema_decay: largest a; .999. ema_warmup: use min(1 - 1/(t+1), a) at update t.
    ema_horizon: share of the run that the average looks back on: a is at most 1 - 1/(ema_horizon ·
        steps); null: a is ema_decay, as published.
    ema_moments: of BatchNorm when the teacher is evaluated: `estimated` on four training batches,
        or `kept`: those of its own forwards, as published.
    teacher_mode: `train` (the authors': dropout, batch
    statistics, running statistics of its own) or `eval` with the student's buffers.
    """

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 100.0,
        ramp: RampKind = "sigmoid",
        ramp_end: Share = 0.25,
        alpha: Annotated[float, Field(gt=0)] = 1.0,
        mix_space: Space = "probabilities",
        ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        ema_warmup: bool = True,
        ema_horizon: Horizon | None = 0.05,
        ema_moments: BatchMoments = "estimated",
        teacher_mode: Literal["train", "eval"] = "train",
    ):
        self.weight = weight
        self.ramp = Ramp(ramp, end=ramp_end)
        self.alpha = alpha
        self.mix_space = mix_space
        buffers: Literal["own", "copy"] = "own" if teacher_mode == "train" else "copy"
        self.teacher = TeacherRequest(ema_decay, ema_warmup, buffers, ema_horizon, ema_moments)

    def declare(self) -> Declaration:
        return Declaration(
            views={"unlabeled": ("weak",)},
            slots=("unlabeled_mixer",),
            tags=("unlabeled_loss",),
            teacher=self.teacher,
            evaluates_teacher=True,
            exact_on_ranks=False,
        )

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak", network="teacher")
        mixed = blend_embedded(step.embedding("unlabeled", "weak"), *self.mixing(step))
        step.add(Input(f"{self.key}/mixed", mixed))

    def mixing(self, step: Step) -> tuple[Tensor, Tensor]:
        """Partners and λ of the step's unlabeled samples, [U] each; the same whenever it is
        asked."""
        share, partner = draw_mixing(
            step, self.key, step.streams["unlabeled"].size, self.alpha, per_sample=False
        )
        return partner, share

    def terms(self, step: Step, context: Context) -> None:
        weight = self.weight * self.ramp(step.progress)
        mixing = self.mixing(step)
        for task in step.tasks:
            scores = mixed_scores(
                step.logits("teacher:unlabeled/weak", task), *mixing, self.mix_space
            )
            p = torch.softmax(step.logits(f"{self.key}/mixed", task), dim=1)
            values = squared_distance(p, make_targets(scores).value)
            step.term(step.named(self.key, task), values, weight=weight, task=task)
