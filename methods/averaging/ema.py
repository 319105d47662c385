"""Exponential moving average of the weights, evaluated beside the raw network (Polyak and Juditsky 1992)."""

from typing import Annotated, Literal

from pydantic import Field

from recipes.method import Declaration, Method, TeacherRequest


class EMA(Method):
    """θ' ← aθ' + (1-a)θ after every optimizer step (not every micro-batch), θ' starting as a copy, in float32.

    decay a: .999. warmup: use min(1 - 1/(t+1), a) at update t, so that short runs forget their start. buffers: `copy`
    takes the student's batch-norm statistics, `ema` averages them; they are never left at their initial values, the
    classic cause of averaged networks at chance.

    Beside a method that keeps an averaged network of its own (`mean_teacher`) that one is evaluated, and these
    settings do not count.
    """

    def __init__(
        self,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        warmup: bool = False,
        buffers: Literal["copy", "ema"] = "copy",
    ):
        self.teacher = TeacherRequest(decay, warmup, buffers)

    def declare(self) -> Declaration:
        return Declaration(teacher=self.teacher, yields_teacher=True, evaluates_teacher=True)
