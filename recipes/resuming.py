"""Whether a checkpoint can be gone on with by this run: found out before anything is written."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from datamodules.errors import UserError
from recipes.adopted import adoptable, adopted_names


def identity(config: DictConfig) -> dict[str, str]:
    """What a run and the one it resumes must have in common, in the user's words; every checkpoint carries it."""
    methods = sorted(str(key) for key in config.get("methods") or {})
    return {
        "methods": ", ".join(methods) or "none",
        "data.source": str(config.data.source._target_).rpartition(".")[2],
        "network.name": str(config.network.name),
        "parameters": "in parts (fsdp)" if config.trainer.strategy == "fsdp" else "whole",
        "optimizer": str(config.optimizer.get("name") or str(config.optimizer._target_).rpartition(".")[2]),
    }


def check_resume(checkpoint: Mapping[str, Any], config: DictConfig, module: nn.Module, total_steps: int) -> None:
    """Raise `UserError` where the checkpoint is of another recipe, of other shapes, or has nothing left to do."""
    ours, theirs = identity(config), checkpoint.get("identity") or {}
    for what, value in ours.items():
        if what in theirs and theirs[what] != value:
            raise UserError(
                f"resume={config.resume}: made with {what}: {theirs[what]}, but this run has {value}; "
                "resume with the same choices, or take only weights by network.checkpoint"
            )
    fault = _misfit(checkpoint["state_dict"], module)
    if fault:
        raise UserError(f"resume={config.resume}: does not fit this run, {fault}; resume with the settings it had")
    done = int(checkpoint["global_step"])
    if done >= total_steps:
        raise UserError(
            f"resume={config.resume}: has done {done} steps and trainer.max_steps={total_steps}, so nothing is left; "
            "expected a larger trainer.max_steps"
        )


def _misfit(saved: Mapping[str, Any], module: nn.Module) -> str:
    """The first difference in names or shapes, in words; empty where there is none."""
    own, adopted = module.state_dict(), set(adopted_names(module))
    for name in own:
        if name not in saved:
            return f"it has no '{name}'"
        if name in adopted and not adoptable(saved[name], own[name]):
            return f"'{name}' is {_kind(saved[name])} there and {_kind(own[name])} here"
        if name not in adopted and saved[name].shape != own[name].shape:
            return f"'{name}' is {list(saved[name].shape)} there and {list(own[name].shape)} here"
    return next((f"it has a '{name}' too many" for name in saved if name not in own), "")


def _kind(value: Tensor) -> str:
    """What must agree of a tensor that takes its shape from the checkpoint."""
    return f"{value.ndim}-dimensional {str(value.dtype).removeprefix('torch.')}"
