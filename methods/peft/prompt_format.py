"""Prompts and prefixes in the format of the peft library: `adapter_config.json`, and in
`adapter_model.safetensors` the trained rows, without the network that made them.

The library puts its rows before a text and counts them in the positions: a folder is written only
by a method whose settings mean the same (`positions=shift`), so that the library computes what the
run computed. The format has neither heads nor a fingerprint of the backbone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundation.errors import UserError, first_line
from methods.peft.peft_format import CONFIG, WEIGHTS
from recipes.networks.text import TextNetwork

ROWS = "prompt_embeddings"


def write_rows(
    folder: Path,
    kind: str,
    rows: Tensor,
    width: int,
    network: TextNetwork,
    layers: int = 1,
    **settings: Any,
) -> None:
    """Write rows so that `PeftModel.from_pretrained(backbone, folder)` loads them.

    kind: `PROMPT_TUNING`, `P_TUNING` or `PREFIX_TUNING`. rows: [P, d_e], or the keys and values of
    all layers, [P, 2Ld]. width: d_e or d. settings: of the kind.
    """
    encoder = network.backbone.config.get_text_config()
    head = getattr(encoder, "head_dim", None)
    head = head or encoder.hidden_size // encoder.num_attention_heads
    config = {
        "peft_type": kind,
        "task_type": "FEATURE_EXTRACTION",
        "inference_mode": True,
        "num_virtual_tokens": len(rows),
        "token_dim": width,
        "num_attention_heads": max(width // head, 1),
        "num_layers": layers,
        "num_transformer_submodules": 1,
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    saved = {ROWS: rows.detach().float().cpu().contiguous()}
    save_file(saved, folder / WEIGHTS, metadata={"format": "pt"})


def read_rows(folder: Path, kinds: Sequence[str], shape: Sequence[int], option: str) -> Tensor:
    """The rows of a folder in the library's format.

    kinds: the library's methods whose rows can be used. shape: [P, d_e] or [P, 2Ld]. Raises
    UserError if the folder holds anything else.
    """
    setting = f"{option}={folder}"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        file = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        problem = f"not a folder of the peft library ({first_line(error)})"
        raise UserError(f"{setting}: {problem}") from error
    kind = config.get("peft_type")
    if kind not in kinds or ROWS not in file:
        raise UserError(f"{setting}: its peft_type is {kind}, expected {' or '.join(kinds)}")
    rows = file[ROWS]
    if list(rows.shape) != list(shape):
        remedy = f"set length={len(rows)}" if len(rows) != shape[0] else "use the same encoder"
        raise UserError(f"{setting}: has rows {list(rows.shape)}, expected {list(shape)}; {remedy}")
    return rows
