"""From a composed config to the parts of a run: nothing here reads data or touches a device."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback

from datamodules.datamodule import StreamDataModule
from datamodules.text.prepare import Tokenize
from foundation.errors import UserError, raise_all
from recipes.config.belonging import check_made
from recipes.contract.composition import Composition, compose
from recipes.contract.environment import Environment
from recipes.contract.method import Method
from recipes.contract.probe import Probe
from recipes.engine.hardware import check_compiler
from recipes.engine.trainer import CheckpointSettings, TrainerSettings, devices_of
from recipes.networks.checkpoint import before_surgery, load_deferred
from recipes.networks.freezing import freeze_requested
from recipes.networks.network import Network
from recipes.optimization.build import check_optimizer
from recipes.optimization.layer_decay import checked_depths
from recipes.optimization.optimizers import OptimizerSettings
from recipes.optimization.schedulers import Schedule
from recipes.setup.batch_checks import check_batch_contents
from recipes.setup.changes import Change
from recipes.setup.freezing import check_freezing
from recipes.setup.machine import check_device_list, check_strategy_name
from recipes.setup.monitor import monitor_of
from recipes.setup.network_checks import check_batch_norm, check_recomputing, check_text_length
from recipes.setup.patience import check_patience
from recipes.setup.precision import chosen_precision
from recipes.setup.radii import check_radii
from recipes.setup.spec import RunSpec, spec_of, with_values
from recipes.setup.trainer_checks import check_batch, check_nonfinite, check_strategy
from recipes.setup.view_checks import check_needed_views, check_view_sizes
from recipes.setup.weights_memory import check_weights_memory, weights_memory


@dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    config: that they came from, its `monitor` filled in. precision: as it was chosen where the
    config says `auto`. optimizer: with the learning rate of this batch size. changes: settings that
    were others when the run began, known once a checkpoint has been read."""

    config: DictConfig
    datamodule: StreamDataModule
    composition: Composition
    trainer: TrainerSettings
    precision: str
    optimizer: OptimizerSettings
    scheduler: Schedule
    probes: dict[str, Probe]
    checkpoint: CheckpointSettings
    callbacks: list[Callback] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def monitor(self) -> str:
        """The metric that judges the run."""
        return str(self.config.monitor)

    def build_network(self, tasks: dict[str, int]) -> Network:
        """The network for heads of these widths, on the default device, before the surgery of the
        methods."""
        build = instantiate(self.config.network, _partial_=True, _convert_="all")
        if self.datamodule.vocab_size is not None and self.config.network.vocab_size is None:
            build = partial(build, vocab_size=self.datamodule.vocab_size)
        with before_surgery():
            return build(info=self.datamodule.info, tasks=tasks)

    def chosen(self, group: str) -> str:
        """What was chosen of a config group, as the user said it."""
        return str(OmegaConf.select(self.config, f"chosen.{group}") or group)

    def meta_network(self) -> Network:
        """The network without memory, for counting: classes that only the data tells count as
        two."""
        tasks = {task: classes or 2 for task, classes in self.datamodule.info.tasks.items()}
        with torch.device("meta"):
            network = self.build_network(tasks)
            for method in self.composition.implementing("surgery"):
                method.surgery(network)
            load_deferred(network)
            freeze_requested(network)
        check_weights_memory(self.weights_memory(network), self.trainer)
        check_text_length(self.datamodule, network)
        check_recomputing(network, self.trainer)
        if self.optimizer.layer_decay < 1:
            checked_depths(network.backbone, self.optimizer.layer_decay)
        samples = self.datamodule.batch_size // devices_of(self.trainer)
        if self.trainer.max_steps:
            check_batch_norm(samples, network)
        return network

    def weights_memory(self, network: Network) -> dict[str, int]:
        """Bytes of a device by network, with gradients and optimizer state."""
        return weights_memory(network, self.composition, self.optimizer, self.precision)


def families(config: DictConfig) -> dict[str, str]:
    """Config group of every chosen method, so that messages name methods as the user does."""
    family_of = {}
    for group, choice in (config.get("chosen") or {}).items():
        for option in str(choice).strip("[]").split(","):
            family_of[option.strip().strip("'\"")] = str(group)
    return family_of


def make(node: DictConfig, key: str) -> Any:
    """The object that the node at a key describes. A `UserError` of its constructor comes out as it
    is, without Hydra's words; what does not belong at the key is one too."""
    try:
        made = instantiate(node, _convert_="all")
    except InstantiationException as refusal:
        cause: BaseException | None = refusal
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or refusal from refusal
    check_made(key, made)
    return made


def user_callbacks(config: DictConfig) -> list[Callback]:
    """What `callbacks` names. Raises `UserError` for what is no callback."""
    made = []
    for name, node in (config.get("callbacks") or {}).items():
        key = f"callbacks.{name}"
        if not isinstance(node, DictConfig) or "_target_" not in node:
            problem = f"found {str(node)[:60]!r}"
            raise UserError(key, problem, "expected a mapping with the _target_ of a callback")
        made.append(make(node, key))
    return made


def assemble(run: RunSpec | DictConfig) -> Assembly:
    """Instantiate data, methods and settings, and compose the methods. Raises `UserError` if they
    do not go together."""
    config = spec_of(run).config
    trainer, optimizer = settings_of(config)
    datamodule = data_of(config, trainer)
    methods = methods_of(config)
    precision = chosen_precision(trainer, methods.values())
    environment = environment_of(config, datamodule, trainer, precision, optimizer)
    composition = compose(methods, environment)
    probes = probes_of(config, composition, environment)
    check_together(config, trainer, datamodule, composition, environment, bool(probes))
    monitor = monitor_of(config, datamodule.info, composition, probes, datamodule.further)
    datamodule.request(
        composition.streams,
        composition.orders,
        composition.own_streams,
        composition.views,
        composition.live,
    )
    check_view_sizes(datamodule)
    return Assembly(
        config=with_values(config, {"monitor": monitor}),
        datamodule=datamodule,
        composition=composition,
        trainer=trainer,
        precision=precision,
        optimizer=optimizer.for_batch(datamodule.batch_size * trainer.accumulate_grad_batches),
        scheduler=make(config.scheduler, "scheduler"),
        probes=probes,
        checkpoint=make(config.checkpoint, "checkpoint"),
        callbacks=user_callbacks(config),
    )


def settings_of(config: DictConfig) -> tuple[TrainerSettings, OptimizerSettings]:
    """How a run trains, each setting right by itself."""
    trainer: TrainerSettings = make(config.trainer, "trainer")
    check_device_list(trainer)
    check_strategy_name(trainer)
    check_compiler(trainer)
    optimizer: OptimizerSettings = make(config.optimizer, "optimizer")
    check_optimizer(optimizer)
    return trainer, optimizer


def data_of(config: DictConfig, trainer: TrainerSettings) -> StreamDataModule:
    """The data of a run, with the views and the batch that it needs."""
    datamodule = make_data(config)
    check_needed_views(datamodule)
    check_radii(config, datamodule.kind)
    check_batch(datamodule.batch_size, devices_of(trainer))
    return datamodule


def methods_of(config: DictConfig) -> dict[str, Method]:
    nodes = config.get("methods") or {}
    return {str(key): make(node, f"methods.{key}") for key, node in nodes.items()}


def check_together(
    config: DictConfig,
    trainer: TrainerSettings,
    datamodule: StreamDataModule,
    composition: Composition,
    environment: Environment,
    probes: bool,
) -> None:
    """Raise `UserError` if data, methods and trainer do not go together. probes: whether anything
    is measured under `evaluate`."""
    check_batch_contents(composition, environment, datamodule.batch_size, datamodule.info.tasks)
    check_nonfinite(trainer, composition)
    check_patience(trainer.patience, composition)
    check_freezing(config.network, composition, environment, trainer)
    check_losses(composition, float(config.supervised_weight))
    check_strategy(trainer, composition, environment, probes)


def make_data(config: DictConfig) -> StreamDataModule:
    """The data of a run. A pretrained text encoder brings its tokenizer."""
    datamodule: StreamDataModule = make(config.data, "data")
    text = datamodule.text
    if isinstance(text, Tokenize) and text.network is None and config.network.pretrained:
        return make(with_values(config.data, {"text.network": config.network.name}), "data")
    return datamodule


def environment_of(
    config: DictConfig,
    datamodule: StreamDataModule,
    trainer: TrainerSettings,
    precision: str,
    optimizer: OptimizerSettings,
) -> Environment:
    """What methods may depend on, apart from each other."""
    return Environment(
        kind=datamodule.kind,
        views=frozenset(datamodule.view_names()),
        data=str(OmegaConf.select(config, "chosen.data") or "data"),
        tasks=len(datamodule.info.tasks),
        shape=datamodule.info.shape,
        accumulate=trainer.accumulate_grad_batches,
        precision=precision,
        devices=devices_of(trainer),
        compile=trainer.compile is not False,
        families=families(config),
        sources=frozenset(datamodule.further),
        optimizer=optimizer.factory_name(),
    )


def probes_of(
    config: DictConfig, composition: Composition, environment: Environment
) -> dict[str, Probe]:
    """The measurements under `evaluate`, by name. Raises `UserError` if one cannot be made of this
    run."""
    nodes = (config.get("evaluate") or {}).items()
    probes = {str(name): make(node, f"evaluate.{name}") for name, node in nodes if node}
    errors: list[UserError] = []
    for name, probe in probes.items():
        try:
            probe.check(environment)
        except UserError as error:
            errors.append(error)
            continue
        if environment.kind not in probe.modalities:
            kinds = " and ".join(probe.modalities)
            problem = (
                f"{type(probe).__name__} works on {kinds} data, but data={environment.data} is "
                f"{environment.kind}: leave one out"
            )
            errors.append(UserError(f"evaluate.{name}", problem))
        elif refusal := probe.refusal(composition):
            errors.append(UserError(f"evaluate.{name}", refusal))
    raise_all(errors)
    return probes


def check_losses(composition: Composition, supervised: float) -> None:
    """Without the tasks' own loss a method must bring another. Raises `UserError`."""
    if not supervised and not composition.implementing("terms"):
        raise UserError(
            "supervised_weight=0",
            "leaves no loss to train on",
            "add a method that brings one (metric_learning=…), or give it a weight",
        )


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain containers with every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
