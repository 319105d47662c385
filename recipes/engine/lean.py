"""What Lightning does in every step, in fewer calls. Hooks that nobody fills are not called: it
asks each callback and the module, and opens a profiler's section around nothing, at 5 to 15 µs a
hook."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler
from torch.optim import Optimizer

EVERY_STEP = (
    *(
        "on_train_batch_start",
        "on_train_batch_end",
        "on_before_zero_grad",
        "on_before_backward",
        "on_after_backward",
    ),
    "on_before_optimizer_step",
)

NOTED = {"_current_fx_name", "_step", "replaying"}


class NoProfiler(PassThroughProfiler):
    """Measures nothing, as Lightning's default does, without a generator for each of the thirty
    sections of a step."""

    section: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.section


class LeanModule(pl.LightningModule):
    """Lightning's own hooks of a step, doing what they did."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes here which hook it is in, some thirty times a step, and a module looks
        # among its parameters, buffers and modules before it sets a plain attribute
        if name in NOTED:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        # torch's own opens a profiler's section around it, which takes longer than the loop
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
    """Put None in the place of hooks that are Lightning's own, which do nothing: it calls only what
    can be called. What somebody has put on the object itself stays."""
    base = Callback if isinstance(owner, Callback) else pl.LightningModule
    for name in EVERY_STEP:
        if name not in vars(owner) and getattr(type(owner), name) is getattr(base, name):
            setattr(owner, name, None)
