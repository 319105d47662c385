"""LoRA in the format of the peft library: writes and reads `adapter_config.json` and
`adapter_model.safetensors`.

The format has one A and one B per layer. Parts of a fused layer with their own A and B are written
as one pair whose rank is the sum of theirs, with B zero outside a part's rows, which is the same
ΔW; reading splits such a pair again. The format has neither heads nor a fingerprint of the
backbone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foundation.errors import UserError
from methods.peft.weights import WeightDelta

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


class LowRankDelta(WeightDelta):
    """What this format can represent: ΔW = scale · B A."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float


def is_peft(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def write_peft(folder: Path, deltas: Sequence[LowRankDelta]) -> None:
    """Write the deltas so that `PeftModel.from_pretrained(backbone, folder)` loads them."""
    tensors = {}
    ranks = {}
    alphas = {}
    for name, group in groupby(deltas, key=lambda delta: delta.site):
        parts = list(group)
        a, b = joined(parts)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b
        ranks[name] = len(a)
        alphas[name] = parts[0].scale * len(a)
    rank = next(iter(ranks.values()))
    alpha = next(iter(alphas.values()))
    other_ranks = {name: value for name, value in ranks.items() if value != rank}
    other_alphas = {name: value for name, value in alphas.items() if value != alpha}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": other_ranks,
        "alpha_pattern": other_alphas,
        "target_modules": list(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(delta.transposed for delta in deltas),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def joined(parts: Sequence[LowRankDelta]) -> tuple[Tensor, Tensor]:
    """One A and one B for all parts of a layer."""
    a = torch.cat([part.a.detach() for part in parts])
    b = a.new_zeros(parts[0].outputs, len(a), *parts[0].b.shape[2:])
    start = 0
    for part in parts:
        rows = slice(*part.rows) if part.rows else slice(None)
        b[rows, start : start + len(part.a)] = part.b.detach()
        start += len(part.a)
    return a.cpu().contiguous(), b.cpu().contiguous()


def read_peft(folder: Path, deltas: Sequence[LowRankDelta], base_prefix: str, option: str) -> None:
    """Fill the deltas from a folder in the library's format.

    base_prefix: prefix of the backbone's names in a model with a task head (`bert`).

    Raises UserError if the folder contains anything but LoRA of these layers.
    """
    config, file = load_folder(folder, option)
    if deltas and all(delta.transposed for delta in deltas):
        config["fan_in_fan_out"] = False  # their weights lie so in the backbone
    variant = _unsupported(config)
    if variant:
        raise UserError(
            f"{option}={folder}: is not plain LoRA ({variant}); expected LoRA without biases"
        )
    lora = {key: value for key, value in file.items() if ".lora_" in key}
    state = {own_name(key, base_prefix): value for key, value in lora.items()}
    for name, group in groupby(deltas, key=lambda delta: delta.site):
        keys = [f"{name}.lora_{letter}.weight" for letter in "AB"]
        if not all(key in state for key in keys):
            raise UserError(f"{option}={folder}: has no '{name}'; it has {listed_sites(state)}")
        a, b = (state.pop(key) for key in keys)
        _fill(list(group), a, b, _scale(config, name, len(a)), f"{option}={folder}")
    if state:
        raise UserError(
            f"{option}={folder}: changes layers that are not targets here: "
            f"{listed_sites(state)}; add them to targets"
        )


def load_folder(folder: Path, option: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a folder in the library's format. Raises UserError."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        file = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{option}={folder}: not a folder of the peft library ({reason})"
        ) from error
    return config, file


def _unsupported(config: Mapping[str, Any]) -> str:
    """What distinguishes a config from plain LoRA; empty for plain LoRA."""
    for key in ("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out"):
        if config.get(key):
            return key
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        return f"peft_type={config.get('peft_type')}, bias={config.get('bias')}"
    return ""


def own_name(key: str, base_prefix: str) -> str:
    """A key of the file without the library's and the model's prefixes."""
    key = key.removeprefix(PREFIX)
    return key.removeprefix(f"{base_prefix}.") if base_prefix else key


def listed_sites(state: Mapping[str, Tensor]) -> str:
    names = sorted({key.partition(".lora_")[0].partition(".glora_")[0] for key in state})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    alpha = (config.get("alpha_pattern") or {}).get(name, config["lora_alpha"])
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return float(alpha) / divisor


@torch.no_grad()
def _fill(parts: Sequence[LowRankDelta], a: Tensor, b: Tensor, scale: float, setting: str) -> None:
    """Copy A and B of a layer to its parts; a scale that differs from ours is multiplied into B.

    setting: `option=folder`, for messages.
    """
    ranks = [len(part.a) for part in parts]
    if len(a) != sum(ranks):
        if len(parts) > 1 or parts[0].rows:
            raise UserError(
                f"{setting}: '{parts[0].site}' has one A for all its rows; set qkv=shared"
            )
        raise UserError(
            f"{setting}: has rank {len(a)} at '{parts[0].site}', expected {ranks[0]}; set "
            f"rank={len(a)}"
        )
    copied = torch.zeros(len(b), len(a), dtype=torch.bool)
    start = 0
    for part in parts:
        rows = slice(*part.rows) if part.rows else slice(None)
        columns = slice(start, start + len(part.a))
        start += len(part.a)
        copied[rows, columns] = True
        if not part.a.is_meta:
            part.a.copy_(a[columns])
            part.b.copy_(b[rows, columns] * (scale / part.scale))
    if b.cpu().flatten(1)[~copied].any():
        raise UserError(
            f"{setting}: '{parts[0].site}' has changes in rows that are not targets here; set "
            "qkv=shared"
        )
