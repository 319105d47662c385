"""The precision of a run with `trainer.precision=auto`."""

from collections.abc import Iterable

import torch

from recipes.contract.method import Method
from recipes.engine.hardware import on_gpu
from recipes.engine.trainer import TrainerSettings

FULL = "32-true"
HALF = "bf16-mixed"
AMPERE = (8, 0)  # the first NVIDIA generation with bf16 arithmetic


def chosen_precision(settings: TrainerSettings, methods: Iterable[Method]) -> str:
    """bf16 autocast on a GPU that supports it, unless a method does not; else float32."""
    if settings.precision != "auto":
        return str(settings.precision)
    able = on_gpu(settings) and torch.cuda.get_device_capability() >= AMPERE
    declared = [method.declare().precisions for method in methods]
    all_work = all(works is None or HALF in works for works in declared)
    return HALF if able and all_work else FULL
