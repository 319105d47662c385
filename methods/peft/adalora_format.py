"""AdaLoRA in the format of the peft library, which has one set of triplets per layer.

Pruned triplets (E = 0) are left out, and `rank_pattern` says which. Parts of a fused layer are
written as triplets of the whole layer with B zero outside a part's rows, which is the same ΔW;
reading assigns each triplet to the part that contains its rows.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from foundation.errors import UserError
from methods.peft.peft_format import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    listed_sites,
    load_folder,
    own_name,
)

LETTERS = "AEB"  # ΔW = scale · B diag(E) A; deltas here have `a`, `e` and `b`
EPSILON = 1e-5  # of the library's scale, alpha / (init_r + ε)


def write_adalora(folder: Path, deltas: Sequence[Any]) -> None:
    """Write the deltas so that `PeftModel.from_pretrained(backbone, folder)` loads them."""
    layers = {}
    for name, group in groupby(deltas, key=lambda delta: delta.site):
        layers[name] = joined(list(group))
    rank = max(len(e) for _, e, _ in layers.values())
    tensors = {}
    pattern = {}
    for name, (a, e, b) in layers.items():
        kept = e.flatten() != 0
        factors = (a[kept], e[kept], b[:, kept])
        for letter, factor in zip(LETTERS, factors, strict=True):
            tensors[f"{PREFIX}{name}.lora_{letter}"] = factor.contiguous()
        pattern[f"{name}.lora_E"] = F.pad(kept, (0, rank - len(kept))).tolist()
    config = {
        "peft_type": "ADALORA",
        "task_type": None,
        "inference_mode": True,
        "init_r": rank,
        "target_r": max(sum(len(e) for _, e, _ in layers.values()) // len(layers), 1),
        "lora_alpha": deltas[0].scale * (rank + EPSILON),
        "rank_pattern": pattern,
        "target_modules": list(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(delta.transposed for delta in deltas),
        # the library refuses a config without it; a delta that is loaded is not pruned further
        "total_step": 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def joined(parts: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """A [r, d_in], E [r, 1] and B [d_out, r] for all parts of a layer, kernels flattened."""
    a = torch.cat([part.a.detach().flatten(1) for part in parts])
    e = torch.cat([part.e.detach() for part in parts])
    padded = []
    for part in parts:
        start, stop = part.rows or (0, part.outputs)
        padded.append(F.pad(part.b.detach().flatten(1), (0, 0, start, part.outputs - stop)))
    return a.cpu(), e.cpu(), torch.cat(padded, dim=1).cpu()


def read_adalora(folder: Path, deltas: Sequence[Any], base_prefix: str, option: str) -> None:
    """Fill the deltas from a folder in the library's format.

    base_prefix: prefix of the backbone's names in a model with a task head (`bert`).

    Raises UserError if the folder contains anything but AdaLoRA of these layers.
    """
    setting = f"{option}={folder}"
    config, file = load_folder(folder, option)
    if config.get("peft_type") != "ADALORA" or config.get("bias", "none") != "none":
        found = f"peft_type={config.get('peft_type')}, bias={config.get('bias')}"
        raise UserError(setting, f"is not AdaLoRA ({found})", "expected AdaLoRA without biases")
    state = {own_name(key, base_prefix): value for key, value in file.items() if ".lora_" in key}
    scale = float(config["lora_alpha"]) / (int(config["init_r"]) + EPSILON)
    for name, group in groupby(deltas, key=lambda delta: delta.site):
        keys = [f"{name}.lora_{letter}" for letter in LETTERS]
        if not all(key in state for key in keys):
            raise UserError(setting, f"has no '{name}'", f"it has {listed_sites(state)}")
        a, e, b = (state.pop(key) for key in keys)
        fill(list(group), a, e, b, scale, places(config, name, len(e)), setting)
    if state:
        problem = f"changes layers that are not targets here: {listed_sites(state)}"
        raise UserError(setting, problem, "add them to targets")


def places(config: Mapping[str, Any], name: str, count: int) -> list[int]:
    """The positions of a layer's triplets among those it started with."""
    pattern = (config.get("rank_pattern") or {}).get(f"{name}.lora_E")
    if pattern is None:
        return list(range(count))
    return [i for i, kept in enumerate(pattern) if kept]


@torch.no_grad()
def fill(
    parts: Sequence[Any],
    a: Tensor,
    e: Tensor,
    b: Tensor,
    scale: float,
    positions: Sequence[int],
    setting: str,
) -> None:
    """Copy triplets to the parts of a layer whose rows they change; a scale that differs from ours
    is multiplied into E. setting: `option=folder`, for messages."""
    rank = len(parts[0].e)
    owners = [owner_of(parts, b[:, i], setting) for i in range(len(e))]
    for number, part in enumerate(parts):
        own = [i for i, owner in enumerate(owners) if owner == number]
        # one part keeps the positions of the file; several share them out in order
        rows = [positions[i] for i in own] if len(parts) == 1 else list(range(len(own)))
        needed = max(rows, default=-1) + 1
        if needed > rank:
            problem = f"has rank {needed} at '{part.site}', expected {rank} at most"
            raise UserError(setting, problem, f"set rank_init={needed}")
        if part.e.is_meta:
            continue
        inside = slice(*part.rows) if part.rows else slice(None)
        part.e.zero_()
        part.e[rows] = (e[own] * (scale / part.scale)).to(part.e)
        part.a[rows] = a[own].view(-1, *part.a.shape[1:]).to(part.a)
        part.b[:, rows] = b[inside][:, own].view(len(part.b), -1, *part.b.shape[2:]).to(part.b)


def owner_of(parts: Sequence[Any], column: Tensor, setting: str) -> int:
    """The number of the part whose rows contain all that a column of B changes."""
    changed = column.nonzero().flatten()
    for number, part in enumerate(parts):
        start, stop = part.rows or (0, part.outputs)
        if bool(((changed >= start) & (changed < stop)).all()):
            return number
    raise UserError(
        setting,
        f"'{parts[0].site}' has triplets that change rows of several parts, or of none here",
        "set qkv=shared",
    )
