"""Weights that a run never changes, in a file of their own beside its checkpoints.

A checkpoint without them names the file and the hash of what is in it: `{"base": {"file": …,
"sha256": …}}`. The name has the first digits of the hash, so a file is written once and never
replaced.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

KEY = "base"
FROZEN = "frozen"  # key of a whole checkpoint: the names of the tensors that may be left out
NAME = re.compile(r"base-[0-9a-f]{16}\.pt")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def base_name(sha256: str) -> str:
    return f"base-{sha256[:16]}.pt"


def base_beside(checkpoint: Path, name: str) -> Path:
    """The file of that name beside a checkpoint, or beside the file that a link leads to."""
    beside = checkpoint.with_name(name)
    return beside if beside.is_file() else checkpoint.resolve().with_name(name)
