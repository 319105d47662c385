"""Interpolation Consistency Training. Verma et al., Interpolation Consistency Training for
Semi-Supervised Learning, IJCAI 2019, arXiv 1903.03825."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from foundation.types import Share
from methods.mixing import blend, blend_embedded, draw_mixing
from methods.semi_supervised.consistency import squared_distance
from methods.semi_supervised.targets import make_targets, scores_of
from recipes.contract import BatchMoments, Context, Declaration, Horizon, Method, TeacherRequest
from recipes.step import Input, Step
from recipes.step.ramps import Ramp, RampKind

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
    sg p'(u_k), with p' the EMA teacher on the unmixed inputs and one λ ~ Beta(α, α) per batch.

    Teacher and mixing use the same weak view; partners are a permutation of the unlabeled batch,
    with several ranks of each rank's own rows. Inputs are mixed after embedding: pixels, or token
    embeddings under the union of their masks. The authors also mix the labeled batch: add
    regularization=mixup. Evaluation uses the teacher.

    weight: largest weight of the consistency loss, w_max, at least 0; 100 (paper).
    ramp: growth of the weight: `constant`, `linear` or `sigmoid` (paper).
    ramp_end: share of the run after which the weight is full, 0 to 1; 0.25 (paper: 100 of 400
        epochs).
    alpha: α of the Beta distribution of λ, above 0; 1 (paper; 0.1 on SVHN).
    mix_space: what of the teacher is mixed: `probabilities` (paper) or `logits` (authors' code).
    ema_decay: largest decay a of the teacher, in [0, 1); 0.999 (paper).
    ema_warmup: use decay min(1 - 1/(t+1), a) at update t; true (authors' code).
    ema_horizon: share of the run that the teacher averages over, in (0, 1]; null: ema_decay alone
        (paper). a is at most 1 - 1/(ema_horizon · steps); 0.05 is ours.
    ema_moments: BatchNorm moments of the teacher: `estimated` on four batches (ours) or `kept`
        (paper). Used at evaluation; `kept` are those of its own forwards.
    teacher_mode: mode in which the teacher predicts: `train` (authors' code) or `eval`. `train`:
        with dropout, batch statistics and running statistics of its own; `eval`: with the student's
        buffers.
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
            lower_on_collapse=("weight",),
            teacher=self.teacher,
            evaluates_teacher=True,
            ddp_exact=False,
            ddp_difference="samples mix with partners on their own rank",
        )

    def prepare(self, step: Step, context: Context) -> None:
        step.request("unlabeled", "weak", network="teacher")
        mixed = blend_embedded(step.embedding("unlabeled", "weak"), *self.mixing(step))
        step.add(Input(f"{self.key}/mixed", mixed))

    def mixing(self, step: Step) -> tuple[Tensor, Tensor]:
        """Partners and λ of the step's unlabeled samples, [U] each; every call draws the same."""
        size = step.streams["unlabeled"].size
        share, partner = draw_mixing(step, self.key, size, self.alpha, per_sample=False)
        return partner, share

    def terms(self, step: Step, context: Context) -> None:
        weight = self.weight * self.ramp(step.progress)
        mixing = self.mixing(step)
        for task in step.tasks:
            logits = step.logits("teacher:unlabeled/weak", task)
            scores = mixed_scores(logits, *mixing, self.mix_space)
            p = torch.softmax(step.logits(f"{self.key}/mixed", task), dim=1)
            values = squared_distance(p, make_targets(scores).value)
            step.term(step.term_name(self.key, task), values, weight=weight, task=task)
