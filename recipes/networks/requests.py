"""What may be requested of a network: an averaged copy, an embedding, weights that stay, further
networks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

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


@dataclass(frozen=True)
class FreezeRequest:
    """Which weights stay as they are. Patterns are names of parameters or of modules, with `*` for
    any characters; those of the backbone may leave out `backbone.`.

    patterns: frozen for the whole run.
    unfreeze_at: frozen until an optimizer step, or a share of the run; wins over `patterns`.
    batchnorm: every BatchNorm of the backbone keeps its running statistics; `affine`: its scale and
        shift too.
    """

    patterns: tuple[str, ...] = ()
    unfreeze_at: Mapping[str, float] = field(default_factory=dict)
    batchnorm: bool | Literal["affine"] = False

    def __bool__(self) -> bool:
        return bool(self.patterns or self.unfreeze_at or self.batchnorm)


@dataclass(frozen=True)
class Twin:
    """A second network of the run's structure that trains with it, by the same optimizer: equal
    surgery, frozen weights and embedding, parameters in the groups of the run's own.

    It starts from random numbers of its name. What a checkpoint or pretrained weights give, it has
    as well.
    """


@dataclass(frozen=True)
class Snapshot:
    """A frozen copy of the trained network in evaluation mode. It has the weights of the start
    until the method calls `context.refresh(NAME)`."""


@dataclass(frozen=True)
class Reference:
    """The reported network of another run: `(view, index) -> logits by task`. It is loaded at its
    first use and is no part of checkpoints. `recipes.predict.references.reference` makes it.

    run: folder of the run, or one of its checkpoints; it has the classes of this run.
    key: the setting that names it, for messages.
    load: (run, device) -> what predicts.
    """

    run: str
    key: str = field(compare=False)
    load: Callable[[str, Any], Any] = field(compare=False, repr=False)


NetworkRequest = Twin | Snapshot | Reference
