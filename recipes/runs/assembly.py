"""From a composed config to the parts of a run: nothing here reads data or touches a device."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules.datamodule import StreamDataModule
from datamodules.text.prepare import Tokenize
from foundation.errors import UserError
from recipes.contract.composition import Composition, Situation, compose
from recipes.contract.method import Method
from recipes.contract.probe import Probe
from recipes.engine.hardware import check_compiler
from recipes.engine.trainer import CheckpointSettings, TrainerSettings
from recipes.networks.network import Network
from recipes.optimization.optimizers import OptimizerSettings, check_optimizer
from recipes.optimization.schedulers import Schedule
from recipes.runs.changes import Change
from recipes.runs.precision import chosen_precision


@dataclass
class Assembly:
    """The parts of a run, and the config they came from. precision: as it was chosen where the
    config says `auto`. changes: settings that were others when the run began, known once a
        checkpoint has been read."""

    config: DictConfig
    datamodule: StreamDataModule
    composition: Composition
    trainer: TrainerSettings
    precision: str
    optimizer: OptimizerSettings
    scheduler: Schedule
    probes: dict[str, Probe]
    checkpoint: CheckpointSettings
    changes: list[Change] = field(default_factory=list)

    def build_network(self, tasks: dict[str, int]) -> Network:
        """The network for heads of these widths, on the default device."""
        build = instantiate(self.config.network, _partial_=True, _convert_="all")
        if self.datamodule.vocab_size is not None and self.config.network.vocab_size is None:
            build = partial(build, vocab_size=self.datamodule.vocab_size)
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
            for method in self.composition.filling("surgery"):
                method.surgery(network)
        return network


def families(config: DictConfig) -> dict[str, str]:
    """Config group of every chosen method, so that messages name methods as the user does."""
    found = {}
    for group, choice in (config.get("chosen") or {}).items():
        for option in str(choice).strip("[]").split(","):
            found[option.strip().strip("'\"")] = str(group)
    return found


def devices_of(settings: TrainerSettings) -> int:
    """How many devices are asked for; 1 where Lightning decides."""
    if isinstance(settings.devices, list):
        return len(settings.devices) * settings.num_nodes
    return settings.devices * settings.num_nodes if isinstance(settings.devices, int) else 1


def make(node: DictConfig) -> Any:
    """The object that a node describes. A `UserError` of its constructor comes out as it is,
    without Hydra's words."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as refusal:
        cause: BaseException | None = refusal
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or refusal from refusal


def assemble(config: DictConfig) -> Assembly:
    """Instantiate data, methods and settings, and compose the methods. Raises UserError where they
    cannot meet."""
    trainer: TrainerSettings = make(config.trainer)
    optimizer: OptimizerSettings = make(config.optimizer)
    check_optimizer(optimizer)
    datamodule: StreamDataModule = make(config.data)
    check_views(datamodule)
    check_batch(datamodule.batch_size, devices_of(trainer))
    methods: dict[str, Method] = {
        str(key): make(node) for key, node in (config.get("methods") or {}).items()
    }
    precision = chosen_precision(trainer, methods.values())
    situation = Situation(
        kind=datamodule.kind,
        views=frozenset(datamodule.view_names()),
        data=str(OmegaConf.select(config, "chosen.data") or "data"),
        tasks=len(datamodule.info.tasks),
        accumulate=trainer.accumulate_grad_batches,
        precision=precision,
        devices=devices_of(trainer),
        compile=trainer.compile is not False,
        families=families(config),
    )
    composition = compose(methods, situation)
    check_compiler(trainer)
    check_nonfinite(trainer, composition)
    check_losses(composition, float(config.supervised_weight))
    probes = probes_of(config, composition, situation)
    check_strategy(trainer, composition, situation, probes=bool(probes))
    config.monitor = config.monitor or objective(config, probes, datamodule.info.disjoint)
    if (
        isinstance(datamodule.text, Tokenize)
        and datamodule.text.network is None
        and config.network.pretrained
    ):
        datamodule.text.network = config.network.name
    datamodule.request(composition.streams, composition.orders)
    return Assembly(
        config=config,
        datamodule=datamodule,
        composition=composition,
        trainer=trainer,
        precision=precision,
        optimizer=optimizer,
        scheduler=make(config.scheduler),
        probes=probes,
        checkpoint=make(config.checkpoint),
    )


def check_strategy(
    trainer: TrainerSettings, composition: Composition, situation: Situation, probes: bool
) -> None:
    """Raise UserError where parameters would lie in parts on several devices and something cannot
    bear it."""
    said = f"trainer.strategy={trainer.strategy}"
    if trainer.strategy != "fsdp":
        if trainer.strategy.startswith(("fsdp", "deepspeed", "model_parallel")):
            raise UserError(
                f"{said}: is not among the ways to split parameters here; expected fsdp, or ddp"
            )
        return
    if unable := [
        situation.option(key) for key, d in composition.declarations.items() if not d.sharded
    ]:
        raise UserError(
            f"{said}: is not declared exact by {', '.join(unable)}; leave out what is not, or take "
            "ddp"
        )
    if situation.kind == "text" or probes:
        what = "an encoder of texts" if situation.kind == "text" else "a measurement under evaluate"
        raise UserError(f"{said}: {what} needs whole parameters; expected ddp")
    if situation.compile:
        raise UserError(
            f"{said}: a compiled network was never tried in parts; set trainer.compile=false, or "
            "take ddp"
        )
    if situation.devices < 2:
        raise UserError(
            f"{said}: trainer.devices={trainer.devices}; expected a number of at least 2"
        )


def check_nonfinite(trainer: TrainerSettings, composition: Composition) -> None:
    """Raise UserError where a batch cannot be left out: on several devices at once, or in the
    middle of a step."""
    if trainer.nonfinite != "skip":
        return
    if trainer.devices in ("auto", -1) or devices_of(trainer) > 1:
        raise UserError(
            "trainer.nonfinite=skip: is for one device; set trainer.devices=1, or "
            "trainer.nonfinite=stop"
        )
    for method in composition.filling("wrap_step"):
        raise UserError(
            f"trainer.nonfinite=skip: {method.key} goes through a batch more than once, and half "
            "of a step cannot be "
            "left out; set trainer.nonfinite=stop"
        )


def probes_of(
    config: DictConfig, composition: Composition, situation: Situation
) -> dict[str, Probe]:
    """The measurements under `evaluate`, by name. Raises UserError where one cannot be made of this
    run."""
    probes = {
        str(name): make(node) for name, node in (config.get("evaluate") or {}).items() if node
    }
    faults = []
    for name, probe in probes.items():
        if situation.kind not in probe.kinds:
            kinds = " and ".join(probe.kinds)
            faults.append(
                f"evaluate.{name}: {type(probe).__name__} works on {kinds} data, but "
                f"data={situation.data} is "
                f"{situation.kind}: leave one out"
            )
        elif refusal := probe.refusal(composition):
            faults.append(f"evaluate.{name}: {refusal}")
    if faults:
        raise UserError("\n".join(faults))
    return probes


def objective(config: DictConfig, probes: Mapping[str, Probe], disjoint: bool) -> str:
    """The metric that a run is judged by where the user names none: accuracy, or, where the heads
    have nothing to say, the main value of a probe. Raises UserError where there is neither."""
    if heads_speak(config, disjoint):
        return "val/accuracy"
    able = [probe for probe in probes.values() if probe.main and "val" in probe.parts]
    if not able:
        why = "supervised_weight=0: no head is taught"
        if disjoint:
            data = OmegaConf.select(config, "chosen.data") or "data"
            why = f"data={data}: is evaluated on classes that training does not have"
        raise UserError(
            f"{why}, so there is no accuracy to judge the run by; add evaluate/retrieval=default"
        )
    return f"val/{able[0].main}"


def heads_speak(config: DictConfig, disjoint: bool) -> bool:
    """Whether what the heads say in evaluation means anything: they are taught, and asked about
    their own classes."""
    return not disjoint and config.supervised_weight > 0


def check_losses(composition: Composition, supervised: float) -> None:
    """Without the tasks' own loss somebody must bring another. Raises UserError."""
    if not supervised and not composition.filling("terms"):
        raise UserError(
            "supervised_weight=0: leaves no loss to train on; add a method that brings one "
            "(metric_learning=…), or "
            "give it a weight"
        )


def check_batch(size: int, devices: int) -> None:
    """Every rank takes an equal part of the batch. Raises UserError."""
    if size % devices:
        near = [n for n in (size - size % devices, size - size % devices + devices) if n]
        raise UserError(
            f"data.batch_size={size}: is the batch over all {devices} devices and must divide by "
            "their number; "
            f"expected e.g. {' or '.join(map(str, near))}"
        )


def check_views(datamodule: StreamDataModule) -> None:
    """Every run sees its labeled samples in the view `weak` and is evaluated on `raw`. Raises
    UserError."""
    for name, use in (("weak", "labeled samples are trained on"), ("raw", "evaluation sees")):
        if name not in datamodule.view_names():
            have = ", ".join(sorted(datamodule.view_names())) or "none"
            raise UserError(
                f"data.views.{name}: is null, and it is what {use}; expected a view (there are: "
                f"{have})"
            )


def plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain containers with every interpolation resolved."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
