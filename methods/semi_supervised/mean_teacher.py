"""Mean Teacher. Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017, arXiv
1703.01780."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from methods.semi_supervised.consistency import squared_distance
from methods.semi_supervised.targets import make_targets
from recipes.contract import BatchMoments, Context, Declaration, Horizon, Method, TeacherRequest
from recipes.step import Step
from recipes.step.ramps import Ramp, RampKind, Share


class MeanTeacher(Method):
    """L = CE + w(t) · mean_i (1/C) ‖p(view1_i) - sg p'(view2_i)‖², p' the averaged teacher on its
    own weak view.

    The student's pass carries the gradient, the teacher's none. teacher_mode=train (the authors'):
    the teacher runs with dropout and batch statistics and keeps running statistics of its own;
    `eval` runs it with the student's buffers. CE is a mean over the labeled batch (the authors
    divide by the whole mixed batch: multiply `weight` by the ratio to reproduce). The teacher is
        what is evaluated.

    weight: 50, linear over the first ramp_end=.4 of the run (the WRN-28-2 re-evaluations; the
        paper: 100, sigmoid).
    ema_decay: largest a; .999. ema_warmup: use min(1 - 1/(t+1), a) at update t.
    ema_horizon: share of the run that the average looks back on: a is at most 1 - 1/(ema_horizon ·
        steps); null: a is ema_decay, as published.
    ema_moments: of BatchNorm when the teacher is evaluated: `estimated` on four training batches,
        or `kept`: those of its own forwards, as published.
    consistency_on: `all` samples (paper) or the `unlabeled`.
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
            views=views, tags=("unlabeled_loss",), teacher=self.teacher, evaluates_teacher=True
        )

    def prepare(self, step: Step, context: Context) -> None:
        for stream in self.streams:
            step.request(stream, "weak")
            step.request(stream, "weak2", network="teacher")

    def terms(self, step: Step, context: Context) -> None:
        for task in step.tasks:
            student = torch.cat([step.logits(f"{s}/weak", task) for s in self.streams])
            teacher = torch.cat([step.logits(f"teacher:{s}/weak2", task) for s in self.streams])
            values = squared_distance(torch.softmax(student, dim=1), make_targets(teacher).value)
            weight = self.weight * self.ramp(step.progress)
            step.term(step.named(self.key, task), values, weight=weight, task=task)
