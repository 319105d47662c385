"""Lightning's work of every step, in fewer calls. Empty hooks are removed: Lightning would call
each one on the module and all callbacks, inside a profiler section, at 5 to 15 µs per hook."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler
from torch.optim import Optimizer

EVERY_STEP = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)

# attributes of a module that are set in every step and are no parameters, buffers or modules
PLAIN_ATTRIBUTES = {"_current_fx_name", "_step", "replaying"}


class NoProfiler(PassThroughProfiler):
    """Measures nothing, like Lightning's default, but without a generator for each of the thirty
    sections of a step."""

    section: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.section


class LeanModule(pl.LightningModule):
    """Faster versions of Lightning's own hooks of a step, with the same effect."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning stores the name of the current hook some thirty times per step, and a module
        # searches its parameters, buffers and modules before it sets an attribute
        if name in PLAIN_ATTRIBUTES:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        # torch's version opens a profiler section, which takes longer than the loop
        if type(optimizer).zero_grad is not Optimizer.zero_grad:
            optimizer.zero_grad()
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: Any = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )


def drop_empty_hooks(owner: Callback | pl.LightningModule) -> None:
    """Replace hooks that are not overridden by None: Lightning calls only callable hooks. Hooks set
    on the object itself do not change."""
    base = Callback if isinstance(owner, Callback) else pl.LightningModule
    for name in EVERY_STEP:
        if name not in vars(owner) and getattr(type(owner), name) is getattr(base, name):
            setattr(owner, name, None)
