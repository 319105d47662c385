"""How long and on what a run trains: the settings behind `trainer=default`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from recipes.optimization.factory import OptimizerImpl

Count = Annotated[int, Field(ge=1)]
Precision = Literal[
    "auto",
    "32-true",
    "64-true",
    "16-mixed",
    "bf16-mixed",
    "16-true",
    "bf16-true",
    "transformer-engine",
    "transformer-engine-float16",
    "bf16",
    16,
    32,
    64,
]
Backend = Literal["inductor", "cudagraphs", "aot_eager", "eager"]


@dataclass(frozen=True)
class TrainerSettings:
    """Settings of Lightning's Trainer; the engine reads them, and adds loggers and callbacks of its
    own.

    max_steps: optimizer steps of the run; 0 trains nothing and evaluates the network as it is, so
    that `network.checkpoint=FILE trainer.max_steps=0` measures one that is there.
    accumulate_grad_batches: micro-batches in one optimizer step. devices: a number of devices, the
        list of their indices, `auto`, or -1 for all.
    gradient_clip_val: largest global norm (or absolute value, by `gradient_clip_algorithm`), null
        for no clipping.
    val_every: optimizer steps between validations, null for a tenth of the run;
        `validation_interval` gives the number.
    limit_val_batches: stop a validation after so many batches, null for all; for quick looks only.
    log_every: optimizer steps between two transfers of the metrics from the device. deterministic:
        refuse operations that have no
    deterministic kernel. nonfinite: what follows a loss that is no number: `stop` at the next
    transfer of the metrics, with the step, the terms and the samples, before a checkpoint is
    written; or `skip` the batch and count it, which waits for the device in every step and is for
    one device.

    precision: `auto` takes bf16-mixed on a GPU that has it, unless a method does not work so, else
    32-true. compile: torch.compile of what lies before the heads, by inductor or the backend named;
    names of weights stay. channels_last: how kernels of convolutions lie; `auto`: so on a GPU,
        where most of an image network's numbers are such. optimizer_impl:
    what the optimizer runs, where it has it: one kernel for all tensors (`fused`), operations on
    lists of tensors (`foreach`), one tensor after the other (`loop`); `auto`: fused on a GPU, on a
    CPU foreach, which is bit-equal to the loop."""

    max_steps: Annotated[int, Field(ge=0)] = 1200
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    devices: Literal["auto", -1] | Count | list[Annotated[int, Field(ge=0)]] = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    precision: Precision = "auto"
    accumulate_grad_batches: Count = 1
    gradient_clip_val: Annotated[float, Field(gt=0)] | None = None
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    val_every: Count | None = None
    limit_val_batches: Count | None = None
    log_every: Count = 10
    deterministic: bool = False
    progress_bar: bool = True
    nonfinite: Literal["stop", "skip"] = "stop"
    compile: bool | Backend = False
    channels_last: Literal["auto"] | bool = "auto"
    optimizer_impl: OptimizerImpl = "auto"

    @property
    def validation_interval(self) -> int:
        """Optimizer steps between validations, at most the whole run."""
        return max(min(self.val_every or self.max_steps // 10, self.max_steps), 1)


@dataclass(frozen=True)
class CheckpointSettings:
    """How often `last.ckpt` is written besides at every validation: every so many optimizer steps,
    every so many minutes, null for neither."""

    every_n_steps: Count | None = None
    every_minutes: Annotated[float, Field(gt=0)] | None = None
