"""LoRA in the format of the peft library: `adapter_config.json` and `adapter_model.safetensors`,
written and read.

There a layer has one A and one B. Parts of a fused layer with their own A and B are written as one
pair of the joint rank, B zero where a part is not meant, which is the same ΔW; such a pair is taken
apart again when read. The format holds no heads and no fingerprint of the backbone.
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
    """What this format can say: ΔW = scale · B A."""

    a: nn.Parameter
    b: nn.Parameter
    scale: float


def is_peft(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def write_peft(folder: Path, deltas: Sequence[LowRankDelta]) -> None:
    """Write the deltas so that `PeftModel.from_pretrained(backbone, folder)` has them."""
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
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": list(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
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
    """Fill the deltas from a folder of the library's. base_prefix: what a model with a task head
    puts before the backbone's names there (`bert`). Raises UserError where the file means something
    else."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        file = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{option}={folder}: not a folder of the peft library ({reason})"
        ) from error
    odd = [
        key for key in ("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out") if config.get(key)
    ]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        what = odd[0] if odd else f"peft_type={config.get('peft_type')}, bias={config.get('bias')}"
        raise UserError(
            f"{option}={folder}: is no plain LoRA ({what}); expected one without biases"
        )
    state = {_plain(key, base_prefix): value for key, value in file.items() if ".lora_" in key}
    for name, group in groupby(deltas, key=lambda delta: delta.site):
        keys = [f"{name}.lora_{letter}.weight" for letter in "AB"]
        if not all(key in state for key in keys):
            raise UserError(f"{option}={folder}: has nothing for '{name}'; it has {_sites(state)}")
        a, b = (state.pop(key) for key in keys)
        _fill(list(group), a, b, _scale(config, name, len(a)), f"{option}={folder}")
    if state:
        raise UserError(
            f"{option}={folder}: changes layers that are no targets here: {_sites(state)}; name "
            "them, too"
        )


def _plain(key: str, base_prefix: str) -> str:
    key = key.removeprefix(PREFIX)
    return key.removeprefix(f"{base_prefix}.") if base_prefix else key


def _sites(state: Mapping[str, Tensor]) -> str:
    names = sorted({key.rpartition(".lora_")[0] for key in state})
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    alpha = (config.get("alpha_pattern") or {}).get(name, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


@torch.no_grad()
def _fill(parts: Sequence[LowRankDelta], a: Tensor, b: Tensor, scale: float, said: str) -> None:
    """A and B of a layer to its parts; another scale than ours goes into B."""
    ranks = [len(part.a) for part in parts]
    if len(a) != sum(ranks):
        if len(parts) > 1 or parts[0].rows:
            raise UserError(
                f"{said}: '{parts[0].site}' has one A for all of its rows there; set qkv=shared"
            )
        raise UserError(
            f"{said}: has rank {len(a)} at '{parts[0].site}', here it is {ranks[0]}; set "
            f"rank={len(a)}"
        )
    claimed = torch.zeros(len(b), len(a), dtype=torch.bool)
    for part, start in zip(parts, [sum(ranks[:i]) for i in range(len(parts))], strict=True):
        rows = slice(*part.rows) if part.rows else slice(None)
        columns = slice(start, start + len(part.a))
        claimed[rows, columns] = True
        if not part.a.is_meta:
            part.a.copy_(a[columns])
            part.b.copy_(b[rows, columns] * (scale / part.scale))
    if b.cpu().flatten(1)[~claimed].any():
        raise UserError(
            f"{said}: '{parts[0].site}' changes rows there that are no targets here; set qkv=shared"
        )
