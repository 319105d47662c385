"""Learning rates and weight decays of a run that was resumed with changed settings: those of the
config, not those of the checkpoint."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from recipes.optimization.plateau import FALLEN
from recipes.optimization.schedulers import Schedule, set_rates


class NewRates(Callback):
    """After the checkpoint has been loaded, sets rate and decay of every group to those of the
    config. The optimizer's moments and the position in the schedule are unchanged."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        groups = trainer.optimizers[0].param_groups
        fresh = fresh_groups(pl_module)
        scheduler.base_lrs = [group["initial_lr"] for group in fresh]
        for group, new in zip(groups, fresh, strict=True):
            group["initial_lr"] = new["initial_lr"]
            group["weight_decay"] = new["weight_decay"]
        set_rates(scheduler)


def fresh_groups(module: Any) -> list[dict[str, Any]]:
    """Parameter groups as the config defines them, without a checkpoint."""
    groups: list[dict[str, Any]] = module.configure_optimizers()["optimizer"].param_groups
    return groups


def groups_fit(checkpoint: Mapping[str, Any], module: nn.Module) -> bool:
    """Whether the same parameters share a rate and a decay as in the checkpoint."""
    saved = [len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"]]
    return saved == [len(group["params"]) for group in fresh_groups(module)]


# state of one number per weight, by the names that torch's optimizers share
PER_WEIGHT = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def optimizer_misfit(checkpoint: Mapping[str, Any], module: nn.Module) -> str:
    """The first difference between the optimizer's state in a checkpoint and the optimizer of this
    run, in words; empty where there is none."""
    saved = checkpoint["optimizer_states"][0]
    groups = fresh_groups(module)
    sizes = [len(group["params"]) for group in saved["param_groups"]]
    wanted = [len(group["params"]) for group in groups]
    if sizes != wanted:
        return f"optimizer_states[0].param_groups: found groups of {sizes} parameters, not {wanted}"
    rates = len(checkpoint["lr_schedulers"][0]["base_lrs"])
    if rates != len(groups):
        return f"lr_schedulers[0].base_lrs: found {rates} rates for {len(groups)} groups"
    parameters = [parameter for group in groups for parameter in group["params"]]
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    for index, parameter in zip(indices, parameters, strict=True):
        state = saved["state"].get(index, {})
        for name in PER_WEIGHT if isinstance(state, Mapping) else ():
            value = state.get(name)
            if value is None:
                continue
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            if shape != list(parameter.shape):
                place = f"optimizer_states[0].state[{index}].{name}"
                return f"{place}: found {shape}, not {list(parameter.shape)}"
    return ""


def stretched(
    old: int, new: int, checkpoint: Mapping[str, Any], module: nn.Module, schedule: Schedule
) -> str:
    """How a longer run changes the schedule, one line."""
    done = int(checkpoint["global_step"])
    name = type(schedule).__name__
    before = float(checkpoint["optimizer_states"][0]["param_groups"][0]["lr"])
    fallen = float(checkpoint["lr_schedulers"][0].get(FALLEN, 1.0))
    now = fresh_groups(module)[0]["initial_lr"] * schedule.factor(done, new) * fallen
    head = f"resume: trainer.max_steps {old} -> {new}: "
    if all(schedule.factor(step, old) == schedule.factor(step, new) for step in range(done, new)):
        rate = f"stays {now:.6g}" if now == before else f"is {now:.6g} and was {before:.6g}"
        return (
            f"{head}ramps given as shares of the run are stretched from step {done} on; the "
            f"learning rate {rate}"
        )
    jump = f"jumps from {before:.6g} to {now:.6g}" if now != before else f"continues from {now:.6g}"
    return (
        f"{head}the schedule {name} and ramps given as shares of the run are stretched from step "
        f"{done} on; "
        f"the learning rate {jump}"
    )
