"""What a run does that its user may not have meant: allowed, and said before it begins, in the plan
and on the page.

A setting that leaves a method without effect, a warm-up that never ends, frozen weights that nobody
has trained, a method of the recipe that the command replaced.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from omegaconf import DictConfig

from recipes.networks.network import Network
from recipes.runs.assembly import Assembly
from recipes.runs.title import replaced_methods

# class -> its setting -> the value with which it changes nothing
NEUTRAL: dict[str, dict[str, float]] = {
    "AWP": {"gamma": 0},
    "FGM": {"eps": 0, "weight": 0},
    "FreeAT": {"eps": 0},
    "FreeLB": {"step_size": 0},
    "PGDAT": {"eps": 0},
    "TRADES": {"beta": 0, "eps": 0},
    "EMA": {"decay": 0},
    "ClassBalancedLoss": {"beta": 0},
    "EqualizationLoss": {"gamma": 0, "threshold": 0},
    "FocalLoss": {"gamma": 0},
    "LogitAdjustment": {"tau": 0},
    "PosthocLogitAdjustment": {"tau": 0},
    "TauNorm": {"tau": 0},
    "Randomization": {"enlarge": 1},
    "Angular": {"weight": 0},
    "BatchHardTriplet": {"weight": 0},
    "BinomialDeviance": {"weight": 0},
    "Circle": {"weight": 0},
    "Clustering": {"weight": 0},
    "Contrastive": {"weight": 0},
    "Histogram": {"weight": 0},
    "ImprovedTriplet": {"weight": 0},
    "LiftedStructure": {"weight": 0},
    "MultiSimilarity": {"weight": 0},
    "NPair": {"weight": 0},
    "ProxyAnchor": {"weight": 0},
    "ProxyNCA": {"weight": 0},
    "ProxyNCAPP": {"weight": 0},
    "Quadruplet": {"weight": 0},
    "RankedList": {"weight": 0},
    "SoftNearestNeighbor": {"weight": 0},
    "Triplet": {"weight": 0},
    "XBM": {"weight": 0},
    "CutMix": {"probability": 0},
    "LabelSmoothing": {"epsilon": 0},
    "SAM": {"rho": 0},
    "FixMatch": {"weight": 0, "warmup": 1},
    "FlexMatch": {"weight": 0, "warmup": 1},
    "ICT": {"weight": 0},
    "MeanTeacher": {"weight": 0},
    "MixMatch": {"weight": 0},
    "NoisyStudent": {"per_class": 0},
    "PiModel": {"weight": 0},
    "PseudoLabel": {"weight": 0, "ramp_start": 1},
    "TemporalEnsembling": {"weight": 0},
    "UDA": {"weight": 0},
    "VAT": {"epsilon": 0, "weight": 0},
}
# classes that use a pseudo-label only where a probability reaches their `threshold`
BY_CONFIDENCE = ("FixMatch", "FlexMatch", "PseudoLabel", "UDA")
# a second loss of a method, which keeps it at work while the first has no weight
BESIDE = ("entropy_weight", "exclusivity_weight")


def remarks(assembly: Assembly, network: Network, trained: bool = False) -> list[str]:
    """All remarks, one a line. trained: the weights come from an earlier stage."""
    config = assembly.config
    lines = list(replaced_methods(config))
    for name, node in (config.get("methods") or {}).items():
        lines += cancelled(f"methods.{name}", node)
    warmup = assembly.scheduler.warmup_steps
    steps = assembly.trainer.max_steps
    if steps and warmup > steps:
        lines.append(
            f"scheduler.warmup_steps={warmup}: the run has {steps} steps, so the learning rate "
            "never reaches optimizer.lr"
        )
    if not trained:
        lines += frozen_random_weights(config, network)
    return lines


def cancelled(key: str, node: Mapping[str, Any]) -> Iterator[str]:
    """Settings of a method that leave it without effect."""
    kind = str(node["_target_"]).rpartition(".")[2]
    if any(node.get(name) for name in BESIDE):
        return
    for name, neutral in NEUTRAL.get(kind, {}).items():
        value = number(node.get(name))
        if value is not None and value == neutral:
            yield f"{key}.{name}={node[name]}: with this value {key} changes nothing"
    threshold = number(node.get("threshold"))
    if kind in BY_CONFIDENCE and threshold is not None and threshold > 1:
        yield (
            f"{key}.threshold={node['threshold']}: no probability is above 1, so {key} keeps no "
            "pseudo-label"
        )


def number(value: Any) -> float | None:
    """A setting as a number, a fraction such as `8/255` too; None for any other."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError):
        return None


def frozen_random_weights(config: DictConfig, network: Network) -> Iterator[str]:
    """Weights of the backbone that are neither trained nor loaded."""
    if config.network.pretrained or config.network.checkpoint is not None:
        return
    attached = {id(p) for module in network.deltas.values() for p in module.parameters()}
    own = [p for p in network.backbone.parameters() if id(p) not in attached]
    frozen = sum(p.numel() for p in own if not p.requires_grad)
    if frozen:
        yield (
            f"{frozen:,} weights of the network are frozen at random values: load some by "
            "network.pretrained=true or network.checkpoint=FILE"
        )
