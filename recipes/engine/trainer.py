"""The settings behind `trainer=default`: length, hardware and precision of a run."""

from dataclasses import dataclass
from typing import Any, Literal

from foundation.types import Count, Devices, Scale, Steps
from recipes.optimization.factory import OptimizerImpl

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
    """Settings of Lightning's Trainer, which gets the engine's loggers and callbacks.

    max_steps: optimizer steps of the run, at least 0; 0: evaluate only. `network.checkpoint=FILE
        trainer.max_steps=0` evaluates an existing network.
    max_epochs: passes of a stream in place of max_steps, above 0, 0.5 for half of one; null: by
        max_steps.
    epoch_of: the stream whose passes are counted: `labeled`, or `unlabeled` for methods that use
        it.
    accelerator: `cpu`, `gpu`, `cuda`, `mps`, `tpu` or `auto`.
    devices: number of devices, a list of their indices, or `auto` (-1): all.
    num_nodes: number of machines, at least 1.
    strategy: Lightning's strategy: `auto`, `ddp`, `fsdp` …
    memory: GiB of a device for weights, gradients and optimizer state, above 0; null: all it has.
        A run whose networks need more is refused before data are read.
    precision: `auto`: bf16-mixed on a GPU that has it, else 32-true; also 16-mixed, 64-true and
        others. `auto` is also 32-true if a method does not work in bf16.
    accumulate_grad_batches: micro-batches in one optimizer step, at least 1.
    gradient_clip_val: largest gradient norm or value, above 0; null: no clipping. The global norm
        or the absolute value, by `gradient_clip_algorithm`.
    gradient_clip_algorithm: clip by global `norm` or by absolute `value`.
    val_every: optimizer steps between validations, at least 1; null: a tenth of max_steps.
        `validation_interval` is the resulting number.
    limit_val_batches: batches of a validation, at least 1; null: all; for quick looks only.
    patience: validations in a row without a better `monitor` after which the run ends, at least 1;
        null: it ends after max_steps. Schedules and ramps are those of max_steps.
    log_every: optimizer steps between two logged metrics, at least 1. Metrics are transferred from
        the device at these steps only.
    deterministic: refuse operations that have no deterministic kernel.
    progress_bar: show a progress bar.
    profiler: Lightning's `simple`, `advanced` or `pytorch`, or {_target_: CLASS, …}; null: none.
        Its table is a file of the run, in `profile`; it slows the steps.
    nonfinite: at a loss of NaN or Inf: `stop` the run or `skip` the batch and count it. `stop`
        happens at the next transfer of the metrics, with the step, the terms and the samples,
        before a checkpoint is written; `skip` is a device sync in every step and for one device.
    compile: torch.compile of the network before its heads: true or a backend, such as `inductor`.
        Names of weights do not change.
    channels_last: use that memory format; `auto`: for convolutional networks on a GPU. Those are
        image networks with most of their parameters in convolutions.
    optimizer_impl: optimizer kernels: `fused`, `foreach`, `loop`; `auto`: fused on a GPU, foreach
        on a CPU. One kernel for all tensors, operations on lists of tensors, or one tensor after
        the other, if the optimizer has it; foreach on a CPU is bit-identical to the loop.
    """

    max_steps: Steps = 1200
    max_epochs: Scale | None = None
    epoch_of: Literal["labeled", "unlabeled"] = "labeled"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    devices: Literal["auto", -1] | Devices | list[Steps] = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    memory: Scale | None = None
    precision: Precision = "auto"
    accumulate_grad_batches: Count = 1
    gradient_clip_val: Scale | None = None
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    val_every: Count | None = None
    limit_val_batches: Count | None = None
    patience: Count | None = None
    log_every: Count = 10
    deterministic: bool = False
    progress_bar: bool = True
    profiler: Literal["simple", "advanced", "pytorch"] | dict[str, Any] | None = None
    nonfinite: Literal["stop", "skip"] = "stop"
    compile: bool | Backend = False
    channels_last: Literal["auto"] | bool = "auto"
    optimizer_impl: OptimizerImpl = "auto"

    @property
    def validation_interval(self) -> int:
        """Optimizer steps between validations, at most the whole run."""
        return max(min(self.val_every or self.max_steps // 10, self.max_steps), 1)


def devices_of(settings: TrainerSettings) -> int:
    """How many devices are asked for; 1 where Lightning decides."""
    if settings.devices in ("auto", -1):
        return 1
    if isinstance(settings.devices, int):
        return settings.devices * settings.num_nodes
    return len(settings.devices) * settings.num_nodes


@dataclass(frozen=True)
class CheckpointSettings:
    """When `last.ckpt` is written in addition to every validation.

    every_n_steps: optimizer steps between two checkpoints, at least 1; null: none by steps.
    every_minutes: minutes between two checkpoints, above 0; null: none by time.
    """

    every_n_steps: Count | None = None
    every_minutes: Scale | None = None
