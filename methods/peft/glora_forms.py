"""Forms of the supports of GLoRA by layer: which there are, what they cost, their file.

The tensors of a large form hold those of the smaller ones (Chavan et al.): a vector is the first
column of the down factor, a scalar its first entry.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from foundation.errors import UserError, first_line
from foundation.randomness import derive_seed

Kind = Literal["lora", "vector", "scalar", "none"]
Forms = dict[str, Kind]  # of one layer: of a, b, c, d, e
SUPPORTS = "abcde"
# from the largest to the smallest; C has no scalar, D and E have no factors
ORDERS: dict[str, tuple[Kind, ...]] = {
    "a": ("lora", "vector", "scalar", "none"),
    "b": ("lora", "vector", "scalar", "none"),
    "c": ("lora", "vector", "none"),
    "d": ("vector", "scalar", "none"),
    "e": ("vector", "scalar", "none"),
}


def options(largest: Mapping[str, Kind]) -> dict[str, tuple[Kind, ...]]:
    """The forms that each support may take, up to a largest one: 4 · 4 · 3 · 3 · 3 = 432 together
    where all are the largest."""
    found = {}
    for name, kind in largest.items():
        order = ORDERS[name]
        found[name] = order[order.index(kind) :]
    return found


def drawn_forms(largest: Mapping[str, Kind], *key: object) -> Forms:
    """Uniform forms of one layer, a function of the key; numbers of the host."""
    number = derive_seed("glora forms", *key)
    forms: Forms = {}
    for name, choices in options(largest).items():
        forms[name] = choices[number % len(choices)]
        number //= len(choices)
    return forms


def part(value: Tensor, kind: Kind) -> Tensor:
    """What a smaller form has of a down factor [rows, r], or of D and E [d_out]."""
    if kind == "vector":
        return value[:, :1] if value.ndim == 2 else value
    if kind == "scalar":
        return value[:1, :1] if value.ndim == 2 else value[:1]
    return value


def cost(forms: Mapping[str, Kind], outputs: int, inputs: int, rank: int, bias: bool) -> int:
    """Parameters of one layer. A layer without bias has no D."""
    shapes = {"a": (outputs, inputs), "b": (outputs, inputs), "c": (inputs, 1)}
    total = 0
    for name, kind in forms.items():
        rows, columns = shapes.get(name, (outputs, 1))
        if kind == "none" or (name == "d" and not bias):
            continue
        total += {"lora": rank * (rows + columns), "vector": rows, "scalar": 1}[kind]
    return total


# -- files -----------------------------------------------------------------------------------------
def write_forms(path: Path, sites: Sequence[str], forms: Sequence[Forms]) -> None:
    layers = [{"site": site, **own} for site, own in zip(sites, forms, strict=True)]
    path.write_text(json.dumps(layers, indent=1) + "\n", encoding="utf-8")


def read_forms(path: str, sites: Sequence[str], option: str) -> list[Forms]:
    """The forms of these layers. Raises `UserError` for a file of other layers, or of none."""
    key, expected = f"{option}={path}", "expected the forms.json of a search"
    try:
        text = Path(path).read_text(encoding="utf-8")
        layers = TypeAdapter(list[dict[str, str]]).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(key, "holds no forms", expected) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(key, f"cannot be read ({first_line(error)})", expected) from error
    named = [layer.get("site", "") for layer in layers]
    if named != list(sites):
        problem = f"is of {len(named)} layers, {', '.join(named[:2])} …"
        here = f"this run has {len(sites)}, {', '.join(sites[:2])} …"
        raise UserError(key, problem, here)
    return [checked_forms(layer, key) for layer in layers]


def checked_forms(layer: Mapping[str, Any], key: str) -> Forms:
    forms: Forms = {}
    for name, order in ORDERS.items():
        kind = layer.get(name)
        if kind not in order:
            problem = f"{layer['site']}: {name} is {kind!r}"
            raise UserError(key, problem, f"expected one of: {', '.join(order)}")
        forms[name] = next(own for own in order if own == kind)
    return forms
