"""Radii of attacks on pictures, whose pixels are in [0, 1]: `eps=8` was meant as 8/255."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from omegaconf import DictConfig

from foundation.errors import UserError, raise_all

RADII = ("eps", "step_size")
LINF = ("FreeAT", "SquareRobustness")  # classes without a setting `norm`


def check_radii(config: DictConfig, kind: str) -> None:
    """Raise `UserError` for an l∞ radius or step above 1 on pictures: the ball would be the whole
    range."""
    if kind != "image":
        return
    errors: list[UserError] = []
    for section in ("methods", "evaluate"):
        for name, node in (config.get(section) or {}).items():
            if node:
                errors += radius_errors(f"{section}.{name}", node)
    raise_all(errors)


def radius_errors(key: str, node: Mapping[str, Any]) -> Iterator[UserError]:
    kind = str(node["_target_"]).rpartition(".")[2]
    if attack := node.get("attack"):
        # an attack in a method's ball
        yield from radius_errors(f"{key}.attack", {**attack, "norm": node.get("norm")})
    if node.get("norm") != "linf" and kind not in LINF:
        return
    for name in RADII:
        value = node.get(name)
        if value is None or isinstance(value, bool):
            continue
        if Fraction(str(value)) > 1:
            problem = f"got {value}, expected at most 1, since pixels are in [0, 1]"
            yield UserError(f"{key}.{name}", problem, f"write {key}.{name}={value}/255")
