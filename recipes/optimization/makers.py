"""What makes an optimizer of a name: timm's factory, and torch's constructors for those that timm
lacks (Rprop, ASGD) or hands on as they are: timm takes a second to import."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import optim

from foundation.errors import UserError, nearest

Maker = Callable[..., optim.Optimizer]

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
