"""Builds an optimizer from its settings, with the parameter groups of learning rate and decay.

Weight decay applies only to tensors with more than one dimension (kernels, embeddings), not to
biases, norms and scales. The shape decides, because a name may not show that a tensor is a norm. A
parameter's attributes `_lr_scale` (factor of the learning rate) and `_weight_decay` take precedence
over its group and over the settings. An extra group may be `constant`: its rate then does not
follow the schedule.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn, optim

from foundation.errors import UserError, nearest
from recipes.optimization.factory import (
    IMPL_ARGUMENTS,
    Constructor,
    OptimizerImpl,
    constructor_of,
    impl_argument,
)
from recipes.optimization.optimizers import OptimizerSettings
from recipes.optimization.schedulers import CONSTANT


def build_optimizer(
    module: nn.Module,
    settings: OptimizerSettings,
    extra_groups: Sequence[Mapping[str, Any]] = (),
    impl: OptimizerImpl = "loop",
    precision: str = "32-true",
) -> optim.Optimizer:
    """An optimizer of the trainable parameters of `module` and of the extra groups.

    extra_groups: dicts with `params` and optionally `lr` and `weight_decay`, which take precedence
        over the settings, and `constant`, whether the rate ignores the schedule. Parameters of an
        extra group are not in the module's groups.
    impl: see `TrainerSettings`; `settings.options` takes precedence.

    Raises `UserError` for an unknown name or argument, and where no parameter is trainable.
    """
    groups = parameter_groups(module, settings, extra_groups)
    if not groups:
        raise UserError(
            "nothing to train: every parameter is frozen; add a method that trains or unfreeze the "
            "head"
        )
    constructor, known = _checked(settings)
    name = settings.factory_name()
    arguments = settings.arguments()
    if not arguments.keys() & IMPL_ARGUMENTS:
        device = groups[0]["params"][0].device.type
        arguments |= impl_argument(impl, name, known, device, precision)
    try:
        return constructor(groups, lr=settings.lr, weight_decay=settings.weight_decay, **arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"optimizer: '{name}' cannot be made with {arguments}: {error}") from error


def check_optimizer(settings: OptimizerSettings) -> Constructor:
    """The constructor of the optimizer. Raises `UserError` for an unknown name and for arguments
    that it does not have; needs no parameters."""
    return _checked(settings)[0]


def chosen_impl(
    settings: OptimizerSettings, impl: OptimizerImpl, device: str, precision: str
) -> str:
    """The implementation that `build_optimizer` selects: `fused`, `foreach` or `loop`; `own` where
    the optimizer has no such argument."""
    options = settings.arguments()
    selected = {name: bool(options[name]) for name in IMPL_ARGUMENTS & options.keys()}
    if not selected:
        known = _checked(settings)[1]
        selected = impl_argument(impl, settings.factory_name(), known, device, precision)
    for name, on in selected.items():
        if on:
            return name
    return "loop" if selected else "own"


def _checked(settings: OptimizerSettings) -> tuple[Constructor, set[str]]:
    name = settings.factory_name()
    constructor, known = constructor_of(name)
    unknown = sorted(settings.arguments().keys() - known)
    if unknown:
        key = f"optimizer.options.{unknown[0]}"
        raise UserError(key, f"'{name}' has no such argument", nearest(unknown[0], known))
    return constructor, known


def parameter_groups(
    module: nn.Module, settings: OptimizerSettings, extra_groups: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Groups of equal learning rate and decay, without frozen parameters, in order of first
    appearance."""
    in_extra_groups: set[int] = set()
    for group in extra_groups:
        in_extra_groups.update(map(id, group["params"]))
    own = {"params": [p for p in module.parameters() if id(p) not in in_extra_groups]}
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for group in (own, *extra_groups):
        for parameter in group["params"]:
            if not parameter.requires_grad:
                continue
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            decay = getattr(parameter, "_weight_decay", group.get("weight_decay", decay))
            rate = group.get("lr", settings.lr) * getattr(parameter, "_lr_scale", 1.0)
            constant = bool(group.get(CONSTANT, False))
            groups.setdefault((rate, decay, constant), []).append(parameter)
    made: list[dict[str, Any]] = []
    for (rate, decay, constant), params in groups.items():
        made.append({"params": params, "lr": rate, "weight_decay": decay})
        if constant:
            made[-1][CONSTANT] = True
    return made
