"""Constructs an optimizer by name, in one of three implementations.

Constructors are timm's factory, and torch's own classes for the optimizers that timm lacks (Rprop,
ASGD) or passes through unchanged: importing timm takes a second.

Implementations (`trainer.optimizer_impl`): `fused`, one kernel for all tensors; `foreach`,
operations on lists of tensors; `loop`, one tensor after the other. Time of a step of SGD with
momentum in ms on one CPU thread at about 2 GHz:

                                  loop   foreach   fused
    digits_cnn (14 tensors)       0.32   0.23      0.08
    WRN-28-2 (78 tensors)         4.2    4.7       1.4

Adam and AdamW need 10 to 30 % less time with `foreach`, and 75 % less with `fused`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import optim

from foundation.errors import UserError, first_line, nearest

Constructor = Callable[..., optim.Optimizer]
OptimizerImpl = Literal["auto", "fused", "foreach", "loop"]
IMPL_ARGUMENTS = {"fused", "foreach"}
# on a CPU, `foreach` is bit-identical to `loop` for these; for NAdam and RAdam it is not
EXACT_FOREACH = {"momentum", "sgd", "adam", "adamw", "rmsprop"}

FROM_TORCH: dict[str, Constructor] = {
    "rprop": optim.Rprop,
    "asgd": optim.ASGD,
    "momentum": partial(optim.SGD, momentum=0.9),
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "radam": optim.RAdam,
}
FIXED = {"params", "lr", "weight_decay"}
REFUSED = {
    "adahessian": (
        "it needs second derivatives, and the training step does not build a graph of the gradient"
    )
}


def optimizer_names() -> list[str]:
    """The values of `NamedOptimizer.name`."""
    from timm.optim import list_optimizers

    return sorted(set(map(str, list_optimizers())) - set(REFUSED) | set(FROM_TORCH))


def constructor_of(name: str) -> tuple[Constructor, set[str]]:
    """The constructor of the optimizer `name`, and the names of its arguments."""
    if name in REFUSED:
        raise UserError(f"optimizer.name: '{name}' is not offered: {REFUSED[name]}")
    if name in FROM_TORCH:
        constructor = FROM_TORCH[name]
        return _from_torch(constructor), set(inspect.signature(constructor).parameters) - FIXED
    # imported here because timm imports all its networks, which takes a second
    from timm.optim import create_optimizer_v2, get_optimizer_class

    if name not in optimizer_names():
        raise UserError(f"optimizer.name: there is no '{name}'; {nearest(name, optimizer_names())}")

    def make(groups: list[dict[str, Any]], **kw: Any) -> optim.Optimizer:
        return create_optimizer_v2(groups, opt=name, filter_bias_and_bn=False, **kw)

    try:
        made_by = get_optimizer_class(name, bind_defaults=False)
    except (AssertionError, ImportError) as error:  # bitsandbytes and apex need packages and a GPU
        problem = f"cannot be made here ({first_line(error)})"
        raise UserError(f"optimizer.name={name}", problem, "use another, e.g. adamw") from error
    return make, set(inspect.signature(made_by).parameters) - FIXED


def _from_torch(constructor: Constructor) -> Constructor:
    """torch's constructor. One without weight decay (Rprop) raises an error for a decay above 0,
    instead of ignoring it."""

    def make(groups: list[dict[str, Any]], weight_decay: float, **kw: Any) -> optim.Optimizer:
        if "weight_decay" in inspect.signature(constructor).parameters:
            return constructor(groups, weight_decay=weight_decay, **kw)
        if any(group["weight_decay"] for group in groups):
            raise ValueError("it has no weight decay; set optimizer.weight_decay=0")
        without_decay = [dict(group) for group in groups]
        for group in without_decay:
            del group["weight_decay"]
        return constructor(without_decay, **kw)

    return make


# -- implementations -------------------------------------------------------------------------------
def impl_argument(
    impl: OptimizerImpl, name: str, known: set[str], device: str, precision: str
) -> dict[str, bool]:
    """The argument that selects an implementation; empty where the optimizer chooses.

    impl: an implementation that the optimizer lacks is replaced by the next slower one.
    known: names of the optimizer's arguments.
    device: type of the parameters' device, `cpu` or `cuda`.
    """
    if impl == "auto" and device == "cpu":
        # `fused` would be three to four times as fast, but it differs in the last bit
        return {"foreach": True} if name in EXACT_FOREACH and "foreach" in known else {}
    if impl == "auto":
        # with fp16 a fused step unscales the gradients itself: too late for clipping and for
        # methods that perturb weights along the gradient
        impl = "fused" if device == "cuda" and precision != "16-mixed" else "foreach"
    if impl == "fused" and "fused" in known:
        return {"fused": True}
    return {"foreach": impl != "loop"} if "foreach" in known else {}
