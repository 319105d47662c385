"""From a composed config to the parts of a run: nothing here reads data or touches a device."""

from dataclasses import dataclass
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from datamodules.datamodule import StreamDataModule
from recipes.composition import Composition, Situation, compose
from recipes.method import Method
from recipes.optimizers import OptimizerSettings
from recipes.schedulers import Schedule
from recipes.settings import TrainerSettings

FAMILIES = (
    "semi_supervised",
    "metric_learning",
    "multi_task",
    "long_tail",
    "peft",
    "adversarial",
    "regularization",
    "averaging",
)


@dataclass
class Assembly:
    """The parts of a run, and the config they came from."""

    config: DictConfig
    datamodule: StreamDataModule
    composition: Composition
    trainer: TrainerSettings
    optimizer: OptimizerSettings
    scheduler: Schedule

    def build_network(self, tasks: dict[str, int]) -> nn.Module:
        """The network for heads of these widths, on the default device."""
        return instantiate(self.config.network, _partial_=True, _convert_="all")(info=self.datamodule.info, tasks=tasks)

    def sketch_network(self) -> nn.Module:
        """The network without memory, for counting: classes that only the data tells count as two."""
        tasks = {task: classes or 2 for task, classes in self.datamodule.info.tasks.items()}
        with torch.device("meta"):
            return self.build_network(tasks)


def chosen(group: str) -> str:
    """What was chosen for a config group, as the user said it; the group's name where Hydra did not compose."""
    if not HydraConfig.initialized():
        return group
    return str(HydraConfig.get().runtime.choices.get(group, group))


def families() -> dict[str, str]:
    """Config group of every chosen method, so that messages name methods as the user does."""
    found = {}
    for group in FAMILIES:
        for option in chosen(group).strip("[]").split(","):
            found[option.strip().strip("'\"")] = group
    return found


def devices_of(settings: TrainerSettings) -> int:
    """How many devices are asked for; 1 where Lightning decides."""
    if isinstance(settings.devices, list):
        return len(settings.devices) * settings.num_nodes
    return settings.devices * settings.num_nodes if isinstance(settings.devices, int) else 1


def assemble(config: DictConfig) -> Assembly:
    """Instantiate data, methods and settings, and compose the methods. Raises UserError where they cannot meet."""
    trainer: TrainerSettings = instantiate(config.trainer, _convert_="all")
    datamodule: StreamDataModule = instantiate(config.data, _convert_="all")
    methods: dict[str, Method] = {
        str(key): instantiate(node, _convert_="all") for key, node in (config.get("methods") or {}).items()
    }
    situation = Situation(
        kind=datamodule.kind,
        views=frozenset(datamodule.view_names()),
        data=chosen("data"),
        accumulate=trainer.accumulate_grad_batches,
        precision=str(trainer.precision),
        devices=devices_of(trainer),
        families=families(),
    )
    composition = compose(methods, situation)
    datamodule.request(composition.streams)
    return Assembly(
        config=config,
        datamodule=datamodule,
        composition=composition,
        trainer=trainer,
        optimizer=instantiate(config.optimizer, _convert_="all"),
        scheduler=instantiate(config.scheduler, _convert_="all"),
    )


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain containers with every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
