"""Exponential moving average of the weights, evaluated beside the raw network (Polyak and Juditsky
1992)."""

from typing import Annotated, Literal

from pydantic import Field

from recipes.contract import BatchMoments, Declaration, Horizon, Method, TeacherRequest


class EMA(Method):
    """θ' ← aθ' + (1-a)θ after every optimizer step (not every micro-batch), θ' starting as a copy,
    in float32.

    a = min(decay, 1 - 1/(horizon · steps of the run)): an average must forget the start of the run,
    and a constant decay knows nothing of its length. The published form is `horizon=null
    moments=kept`. Beside a method with an averaged network of its own (`mean_teacher`) that one is
    evaluated, and these settings are ignored.

    decay: largest decay a, in [0, 1); 0.999 (Tarvainen and Valpola; FixMatch).
    warmup: use decay min(1 - 1/(t+1), a) at update t; false (published form).
    buffers: buffers of the average: `copy` the network's or `ema`, averaged. Never left at their
        initial values, the classic cause of averaged networks at chance.
    horizon: share of the run that is averaged over, in (0, 1]; null: decay alone (published); 0.05
        is ours.
    moments: BatchNorm moments of the average: `estimated` on four training batches (ours) or
        `kept`. They are those of evaluation, checkpoint and export; `kept` are those of `buffers`,
        as published.
    """

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        warmup: bool = False,
        buffers: Literal["copy", "ema"] = "copy",
        horizon: Horizon | None = 0.05,
        moments: BatchMoments = "estimated",
    ):
        self.teacher = TeacherRequest(decay, warmup, buffers, horizon, moments)

    def declare(self) -> Declaration:
        return Declaration(teacher=self.teacher, accepts_any_teacher=True, evaluates_teacher=True)
