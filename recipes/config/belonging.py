"""Of which class a target must be at its place: a method under `methods`, an optimizer at
`optimizer`. A factory function is looked at by what it returns (`check_made`)."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from foundation.errors import UserError
from recipes.config.signatures import find_target

# place -> dotted path of the base class
BASES = {
    r"methods\.[^.\[\]]+": "recipes.contract.method.Method",
    r"evaluate\.[^.\[\]]+": "recipes.contract.probe.Probe",
    r"callbacks\.[^.\[\]]+": "pytorch_lightning.callbacks.Callback",
    "optimizer": "recipes.optimization.optimizers.OptimizerSettings",
    "scheduler": "recipes.optimization.schedulers.Schedule",
    "trainer": "recipes.engine.trainer.TrainerSettings",
    "checkpoint": "recipes.engine.trainer.CheckpointSettings",
    "data": "datamodules.datamodule.StreamDataModule",
    r"stages\.[^.\[\]]+\.program": "recipes.contract.program.Program",
}
# place -> functions that a class must have there
FUNCTIONS = {r"data\.source": ("info", "load")}


def place_errors(key: str, target: Callable[..., Any]) -> list[UserError]:
    """The error of a class at a place where another kind belongs; none for a function, whose
    result `check_made` looks at."""
    if not inspect.isclass(target):
        return []
    name = f"{target.__module__}.{target.__qualname__}"
    base = base_at(key)
    if base is not None and not issubclass(target, base):
        return [wrong_kind(key, f"'{name}' is no {base.__name__}", base)]
    for place, functions in FUNCTIONS.items():
        lacking = [one for one in functions if not callable(getattr(target, one, None))]
        if lacking and re.fullmatch(place, key):
            problem = f"'{name}' has no {' and no '.join(lacking)}"
            remedy = "expected a loader, see datamodules.source.Loader"
            return [UserError(f"{key}._target_", problem, remedy)]
    return []


def check_made(key: str, made: Any) -> None:
    """Raise `UserError` if what a target made does not belong at its place."""
    base = base_at(key)
    if base is not None and not isinstance(made, base):
        problem = f"makes a {type(made).__name__}, no {base.__name__}"
        raise wrong_kind(key, problem, base)


def wrong_kind(key: str, problem: str, base: type) -> UserError:
    remedy = f"expected a subclass of {base.__module__}.{base.__name__}"
    return UserError(f"{key}._target_", problem, remedy)


def base_at(key: str) -> type | None:
    """The base class at a key; None where any target may stand."""
    for place, path in BASES.items():
        if re.fullmatch(place, key):
            base = find_target(path)
            assert inspect.isclass(base)
            return base
    return None
