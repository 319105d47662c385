"""What a method may request of the network: an averaged copy, an embedding."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Horizon = Annotated[float, Field(gt=0, le=1)]
BatchMoments = Literal["estimated", "kept"]


@dataclass(frozen=True)
class TeacherRequest:
    """An exponential moving average of the network, shared by all methods that request an equal
    one.

    decay: the largest a in θ' ← aθ' + (1-a)θ.
    warmup: use min(1 - 1/(t+1), a) at update t = 1, 2, …
    buffers: `copy` the student's, `ema` average them, `own`: those that the teacher's own forwards
        update.
    horizon: share of the run that the average covers: a is at most 1 - 1/(horizon · steps of the
        run); None: a is at most `decay`, for a run of any length.
    moments: what BatchNorm layers use when the averaged network is evaluated: `estimated` on
        training batches, or `kept`, the buffers as above.
    """

    decay: float
    warmup: bool = False
    buffers: Literal["copy", "ema", "own"] = "copy"
    horizon: float | None = None
    moments: BatchMoments = "kept"


@dataclass(frozen=True)
class EmbeddingRequest:
    """A head `embedding` in addition to the tasks' heads, shared by all methods that request an
    equal one.

    dim: its width d.
    normalize: on the unit sphere, x / max(‖x‖, 1e-12).
    layer_norm: of features with mean 0 and variance 1 over their width.
    """

    dim: int
    normalize: bool = True
    layer_norm: bool = False
