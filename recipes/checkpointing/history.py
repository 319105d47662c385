"""The logged rows of a run as tensors, for its checkpoint: what a resumed run reports does not
depend on `metrics.csv`, which a power cut may shorten."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows {"step": int, name: float} as columns.

    names: [C]. steps: [N]. values: [N, C], float64. given: [N, C], whether a row has the value.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    values = [[float(row.get(name, math.nan)) for name in names] for row in rows]
    given = [[name in row for name in names] for row in rows]
    shape = (len(rows), len(names))
    return {
        "names": names,
        "steps": torch.tensor([row["step"] for row in rows], dtype=torch.int64),
        "values": torch.tensor(values, dtype=torch.float64).reshape(shape),
        "given": torch.tensor(given, dtype=torch.bool).reshape(shape),
    }


def unpacked(history: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The inverse of `packed`."""
    columns = [history[key].tolist() for key in ("steps", "values", "given")]
    rows = []
    for step, values, given in zip(*columns, strict=True):
        row: dict[str, Any] = {"step": int(step)}
        for name, value, has_it in zip(history["names"], values, given, strict=True):
            if has_it:
                row[name] = value
        rows.append(row)
    return rows
