"""Mean Teacher. Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017, arXiv
1703.01780."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from foundation.types import Share
from methods.semi_supervised.consistency import squared_distance
from methods.semi_supervised.targets import make_targets
from recipes.contract import BatchMoments, Context, Declaration, Horizon, Method, TeacherRequest
from recipes.step import Step
from recipes.step.ramps import Ramp, RampKind


class MeanTeacher(Method):
    """L = CE + w(t) · mean_i (1/C) ‖p(view1_i) - sg p'(view2_i)‖², p' the EMA teacher on its own
    weak view.

    Only the student's forward has a gradient. CE is a mean over the labeled batch (the authors
    divide by the whole mixed batch: multiply `weight` by the ratio to reproduce). Evaluation uses
    the teacher.

    weight: largest weight of the consistency loss, at least 0; 50 (WRN-28-2 re-evaluations; paper:
        100).
    ramp: growth of the weight: `constant`, `linear` (re-evaluations) or `sigmoid` (paper).
    ramp_end: share of the run after which the weight is full, 0 to 1; 0.4 (re-evaluations).
    ema_decay: largest decay a of the teacher, in [0, 1); 0.999 (paper).
    ema_warmup: use decay min(1 - 1/(t+1), a) at update t; true (authors' code).
    ema_horizon: share of the run that the teacher averages over, in (0, 1]; null: ema_decay alone
        (paper). a is at most 1 - 1/(ema_horizon · steps); 0.05 is ours.
    ema_moments: BatchNorm moments of the teacher: `estimated` on four batches (ours) or `kept`
        (paper). Used at evaluation; `kept` are those of its own forwards.
    teacher_mode: mode in which the teacher predicts: `train` (authors' code) or `eval`. `train`:
        with dropout, batch statistics and running statistics of its own; `eval`: with the student's
        buffers.
    consistency_on: samples of the consistency loss: `all` (paper) or `unlabeled`.
    """

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 50.0,
        ramp: RampKind = "linear",
        ramp_end: Share = 0.4,
        ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        ema_warmup: bool = True,
        ema_horizon: Horizon | None = 0.05,
        ema_moments: BatchMoments = "estimated",
        teacher_mode: Literal["train", "eval"] = "train",
        consistency_on: Literal["all", "unlabeled"] = "all",
    ):
        self.weight = weight
        self.ramp = Ramp(ramp, end=ramp_end)
        buffers: Literal["own", "copy"] = "own" if teacher_mode == "train" else "copy"
        self.teacher = TeacherRequest(ema_decay, ema_warmup, buffers, ema_horizon, ema_moments)
        self.streams = ("labeled", "unlabeled") if consistency_on == "all" else ("unlabeled",)

    def declare(self) -> Declaration:
        views = dict.fromkeys(self.streams, ("weak", "weak2"))
        return Declaration(
            views=views,
            tags=("unlabeled_loss",),
            teacher=self.teacher,
            evaluates_teacher=True,
            lower_on_collapse=("weight",),
        )

    def prepare(self, step: Step, context: Context) -> None:
        for stream in self.streams:
            step.request(stream, "weak")
            step.request(stream, "weak2", network="teacher")

    def terms(self, step: Step, context: Context) -> None:
        weight = self.weight * self.ramp(step.progress)
        for task in step.tasks:
            student = torch.cat([step.logits(f"{s}/weak", task) for s in self.streams])
            teacher = torch.cat([step.logits(f"teacher:{s}/weak2", task) for s in self.streams])
            values = squared_distance(torch.softmax(student, dim=1), make_targets(teacher).value)
            step.term(step.term_name(self.key, task), values, weight=weight, task=task)
