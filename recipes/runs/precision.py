"""In which precision a run computes, where the config says `auto`."""

from collections.abc import Iterable

import torch

from recipes.contract.method import Method
from recipes.engine.hardware import on_gpu
from recipes.engine.trainer import TrainerSettings

FULL, HALF = "32-true", "bf16-mixed"
AMPERE = (8, 0)  # the first NVIDIA generation whose arithmetic units take bf16


def chosen_precision(settings: TrainerSettings, methods: Iterable[Method]) -> str:
    """`auto`: bf16 under autocast on a GPU that has it, unless a method does not work so; else
    float32."""
    if settings.precision != "auto":
        return str(settings.precision)
    able = on_gpu(settings) and torch.cuda.get_device_capability() >= AMPERE
    declared = [method.declare().precisions for method in methods]
    return HALF if able and all(works is None or HALF in works for works in declared) else FULL
