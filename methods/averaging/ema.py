"""Exponential moving average of the weights, evaluated in addition to the raw network (Polyak and
Juditsky 1992)."""

from typing import Annotated, Literal

from pydantic import Field

from recipes.contract import BatchMoments, Declaration, Horizon, Method, TeacherRequest


class EMA(Method):
    """θ' ← aθ' + (1-a)θ after every optimizer step (not every micro-batch), θ' starting as a copy,
    in float32.

    a = min(decay, 1 - 1/(horizon · steps of the run)): the average must forget the start of the
    run, and a constant decay does not depend on its length. The published form is `horizon=null
    moments=kept`. With a method that has its own EMA network (`mean_teacher`), that network is
    evaluated, and these settings are ignored.

    decay: largest decay a, in [0, 1); 0.999 (Tarvainen and Valpola; FixMatch).
    warmup: use decay min(1 - 1/(t+1), a) at update t; false (published form).
    buffers: buffers of the average: `copy` the network's or `ema`, averaged. Buffers left at their
        initial values are the classic cause of EMA networks at chance accuracy.
    horizon: share of the run that is averaged over, in (0, 1]; null: decay alone (published); 0.05
        is ours.
    moments: BatchNorm moments of the average: `estimated` on four training batches (ours) or
        `kept`. Evaluation, checkpoint and export use them; `kept` are those of `buffers`, as
        published.
    """

    neutral = {"decay": 0}

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        warmup: bool = False,
        buffers: Literal["copy", "ema"] = "copy",
        horizon: Horizon | None = 0.05,
        moments: BatchMoments = "estimated",
    ):
        self.decay = decay
        self.teacher = TeacherRequest(decay, warmup, buffers, horizon, moments)

    def declare(self) -> Declaration:
        return Declaration(teacher=self.teacher, accepts_any_teacher=True, evaluates_teacher=True)
