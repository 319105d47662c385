"""Makes an optimizer by its name, in one of three implementations.

By name: timm's factory, and torch's constructors for those that timm lacks (Rprop, ASGD) or hands
on as they are: timm takes a second to import.

Implementations (`trainer.optimizer_impl`): one kernel for all tensors, operations on lists of them,
or one tensor after the other. Measured on a CPU of 2.x GHz with one thread, ms a step of SGD with
momentum: 0.32 tensor by tensor, 0.23 on lists, 0.08 fused for the 14 tensors of `digits_cnn`; 4.2,
4.7, 1.4 for the 78 of WRN-28-2. Adam and AdamW gain a tenth to a third on lists, three quarters
fused.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import optim

from foundation.errors import UserError, nearest

Maker = Callable[..., optim.Optimizer]
OptimizerImpl = Literal["auto", "fused", "foreach", "loop"]
FORMS = {"fused", "foreach"}
# on lists of tensors to the bit what they are tensor by tensor, on a CPU; NAdam and RAdam are not
EXACT_ON_LISTS = {"momentum", "sgd", "adam", "adamw", "rmsprop"}

FROM_TORCH: dict[str, Maker] = {
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
        "it needs a backward pass that can be differentiated again, which the step does not make"
    )
}


def optimizer_names() -> list[str]:
    """All names that `NamedOptimizer` takes."""
    from timm.optim import list_optimizers

    return sorted(set(map(str, list_optimizers())) - set(REFUSED) | set(FROM_TORCH))


def maker_of(name: str) -> tuple[Maker, set[str]]:
    """What makes the optimizer called `name`, and the arguments it knows."""
    if name in REFUSED:
        raise UserError(f"optimizer.name: '{name}' is not offered: {REFUSED[name]}")
    if name in FROM_TORCH:
        return _from_torch(FROM_TORCH[name]), set(
            inspect.signature(FROM_TORCH[name]).parameters
        ) - FIXED
    # imported late: timm loads all its networks, which nobody wants to wait for who does not need
    # it
    from timm.optim import create_optimizer_v2, get_optimizer_class

    if name not in optimizer_names():
        raise UserError(f"optimizer.name: there is no '{name}'; {nearest(name, optimizer_names())}")

    def make(groups: list[dict[str, Any]], **kw: Any) -> optim.Optimizer:
        return create_optimizer_v2(groups, opt=name, filter_bias_and_bn=False, **kw)

    known = set(inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters)
    return make, known - FIXED


def _from_torch(maker: Maker) -> Maker:
    """torch's constructor; one without weight decay (Rprop) refuses a decay instead of forgetting
    it."""

    def make(groups: list[dict[str, Any]], weight_decay: float, **kw: Any) -> optim.Optimizer:
        if "weight_decay" in inspect.signature(maker).parameters:
            return maker(groups, weight_decay=weight_decay, **kw)
        if any(group["weight_decay"] for group in groups):
            raise ValueError("it has no weight decay; set optimizer.weight_decay=0")
        return maker(
            [{k: v for k, v in group.items() if k != "weight_decay"} for group in groups], **kw
        )

    return make


# -- implementations -------------------------------------------------------------------------------
def form_of(
    impl: OptimizerImpl, name: str, known: set[str], device: str, precision: str
) -> dict[str, bool]:
    """The argument that chooses an implementation, empty where it is left to the optimizer.

    known: the optimizer's arguments. What it lacks gives way to the next slower one."""
    if impl == "auto" and device == "cpu":
        # fused is three to four times as fast there and differs in the last bit
        return {"foreach": True} if name in EXACT_ON_LISTS and "foreach" in known else {}
    if impl == "auto":
        # a fused step unscales gradients of fp16 by itself, after anybody could have clipped or
        # perturbed by them
        impl = "fused" if device == "cuda" and precision != "16-mixed" else "foreach"
    if impl == "fused" and "fused" in known:
        return {"fused": True}
    return {"foreach": impl != "loop"} if "foreach" in known else {}
