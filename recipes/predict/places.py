"""Which classes the config of a run may name at which key."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """What is allowed at a key of a config.

    key: regular expression of the dotted key.
    modules: the modules (or packages) that the target may be in.
    bases: the target is one of these, or a subclass of one; empty: any class of the modules.
    expected: the same in words.
    optional: whether the key may be null.
    """

    key: str
    modules: tuple[str, ...]
    bases: tuple[str, ...]
    expected: str
    optional: bool = True

    def names(self, target: str) -> bool:
        """Whether the target is in or below one of the modules; nothing is imported."""
        return any(target.startswith(f"{module}.") for module in self.modules)


VIEWS = "datamodules.views"
VIEW_BASES = (
    f"{VIEWS}.image.raw.Raw",
    f"{VIEWS}.image.weak.Weak",
    f"{VIEWS}.image.strong.Strong",
    f"{VIEWS}.image.ctaugment.CTAugment",
    f"{VIEWS}.image.resized_crop.Middle",
    f"{VIEWS}.image.resized_crop.ResizedCrop",
    f"{VIEWS}.image.natural.Natural",
    f"{VIEWS}.image.own.Own",
    f"{VIEWS}.text.view.TextView",
)
STAGE_BASES = (
    f"{VIEWS}.image.weak.Weak",
    f"{VIEWS}.image.resized_crop.ResizedCrop",
    f"{VIEWS}.image.policies.AutoAugment",
    f"{VIEWS}.image.policies.TrivialAugment",
    f"{VIEWS}.image.policies.RandAugment",
    f"{VIEWS}.image.color_stages.ColorJitter",
    f"{VIEWS}.image.color_stages.ThreeAugment",
    f"{VIEWS}.image.erase.Erasing",
)
PROBES = (
    "methods.adversarial.robustness",
    "methods.adversarial.transfer_robustness",
    "recipes.evaluation.retrieval",
    "recipes.evaluation.scores",
)
LOGGERS = ("recipes.loggers.tensorboard", "recipes.loggers.weights_and_biases")
LOGGER_BASES = (f"{LOGGERS[0]}.TensorBoard", f"{LOGGERS[1]}.WeightsAndBiases")
NETWORK = ("recipes.networks.build.build_network",)
DATA = "datamodules.datamodule"
TRAINER = "recipes.engine.trainer.TrainerSettings"
CHECKPOINT = "recipes.engine.trainer.CheckpointSettings"

PLACES = (
    Place(
        r"methods\.[^.\[\]]+",
        ("methods",),
        ("recipes.contract.method.Method",),
        "a method of Roux",
        optional=False,
    ),
    Place(r"methods\.[^.\[\]]+\.attack", ("methods.adversarial.attacks",), (), "an attack of Roux"),
    Place(
        r"evaluate\.[^.\[\]]+", PROBES, ("recipes.contract.probe.Probe",), "a measurement of Roux"
    ),
    Place(r"logger\.[^.\[\]]+", LOGGERS, LOGGER_BASES, "a logger of Roux"),
    Place(
        "network", ("recipes.networks",), NETWORK, "recipes.networks.build_network", optional=False
    ),
    Place(
        "optimizer",
        ("recipes.optimization.optimizers",),
        ("recipes.optimization.optimizers.OptimizerSettings",),
        "an optimizer",
        False,
    ),
    Place(
        "scheduler",
        ("recipes.optimization.schedulers", "recipes.optimization.plateau"),
        ("recipes.optimization.schedulers.Schedule",),
        "a schedule",
        optional=False,
    ),
    Place("trainer", ("recipes.engine.trainer",), (TRAINER,), TRAINER, optional=False),
    Place("checkpoint", ("recipes.engine.trainer",), (CHECKPOINT,), CHECKPOINT, optional=False),
    Place(
        "data", (DATA,), (f"{DATA}.StreamDataModule",), f"{DATA}.StreamDataModule", optional=False
    ),
    Place(
        r"data\.source",
        ("datamodules.sources",),
        ("datamodules.source.Loader",),
        "a data set of Roux",
        False,
    ),
    # a loader, or a mapping with one
    Place(
        r"data\.sources\.[^.\[\]]+(\.source)?",
        ("datamodules.sources",),
        ("datamodules.source.Loader",),
        "a data set of Roux",
    ),
    Place(
        r"data\.text",
        ("datamodules.text",),
        ("datamodules.text.prepare.Tokenize",),
        "datamodules.text.Tokenize",
    ),
    Place(r"data\.views\.[^.\[\]]+", (VIEWS,), VIEW_BASES, "a view of Roux"),
    # views that are made of views
    Place(
        r"data\.views\.[^.\[\]]+\.(weak|views\[\d+\])(\.weak|\.views\[\d+\])*",
        (VIEWS,),
        VIEW_BASES,
        "a view",
    ),
    Place(
        r"data\.views\.[^.\[\]]+\.(crop|policy|color|erase)",
        (VIEWS,),
        STAGE_BASES,
        "a stage of a view",
    ),
)


def place_of(key: str) -> Place | None:
    return next((place for place in PLACES if re.fullmatch(place.key, key)), None)
