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
    moments=kept`.

    decay: largest a, in [0, 1); .999 (Tarvainen and Valpola; FixMatch).
    warmup: use min(1 - 1/(t+1), a) at update t.
    buffers: `copy` takes the student's buffers, `ema` averages them; never left at their initial
        values, the classic cause of averaged networks at chance.
    horizon: share of the run that the average looks back on, in (0, 1]; null: a = decay.
    moments: of BatchNorm when the averaged network is evaluated, saved and exported: `estimated` on
        four training batches, or `kept`: those of `buffers`.

    Beside a method that keeps an averaged network of its own (`mean_teacher`) that one is
    evaluated, and these settings do not count.
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
