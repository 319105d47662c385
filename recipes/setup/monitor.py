"""The metric that judges a run: for `best.ckpt`, for searches, for the headline."""

from collections.abc import Iterable, Iterator, Mapping

from omegaconf import DictConfig, OmegaConf

from datamodules.source import DataInfo
from foundation.errors import UserError, nearest
from recipes.contract.composition import Composition
from recipes.contract.probe import Probe
from recipes.tasks.classification import GROUPS, METRICS

PART = "val"
# what others call our metrics
SAME = {
    "acc": "accuracy",
    "top1": "accuracy",
    "recall": "balanced_accuracy",
    "macro_recall": "balanced_accuracy",
    "nll": "loss",
    "cross_entropy": "loss",
    "macro_f1": "f1",
    "f1_macro": "f1",
    "macro_precision": "precision",
    "auc": "auroc",
    "ap": "average_precision",
    "calibration_error": "ece",
}
OF_SCORES = ("f1", "precision", "auroc", "average_precision", "ece")


def monitor_of(
    config: DictConfig,
    info: DataInfo,
    composition: Composition,
    probes: Mapping[str, Probe],
    further: Iterable[str] = (),
) -> str:
    """The metric that the user named, or the usual one. Raises `UserError` for one that validation
    does not have. further: names of the sets beside the first, whose validation is `NAME_val`."""
    if config.monitor is None:
        return objective(config, probes, info.disjoint)
    monitor = str(config.monitor)
    parts = [PART, *(f"{name}_{PART}" for name in further)]
    names = head_metrics(config, info, composition)
    for probe in validating(probes):
        own = probe.metric_names(list(info.tasks))
        if own is None and monitor.partition("/")[0] in parts:
            return monitor  # known only once it is measured
        names += own or []
    names = [f"{part}/{name}" for part in parts for name in names]
    if monitor not in names:
        problem = "validation has no such metric"
        raise UserError(f"monitor={monitor}", problem, remedy_for(monitor, names, config))
    return monitor


def remedy_for(monitor: str, names: list[str], config: DictConfig) -> str:
    """What to write in place of a metric that validation does not have."""
    head, _, last = monitor.rpartition("/")
    same = f"{head}/{SAME.get(last, last)}"
    if same in names:
        return f"write {same}, which is the same"
    scored = SAME.get(last, last) in OF_SCORES or last.startswith("top")
    if scored and not (config.get("evaluate") or {}).get("scores"):
        return "add evaluate/scores=default, which measures it"
    return nearest(monitor, names)


def head_metrics(config: DictConfig, info: DataInfo, composition: Composition) -> list[str]:
    """The names that `Evaluator` gives to the metrics of the heads, without the part; empty if they
    are not evaluated. Those of shot groups are among them, which only the data's counts decide."""
    if not heads_speak(config, info.disjoint):
        return []
    metrics = [*METRICS, *(f"accuracy_{group}" for group in GROUPS)]
    variants = ["", "raw/"] if composition.changes_evaluation else [""]
    tasks = list(info.tasks) if len(info.tasks) > 1 else []
    names = []
    for variant in variants:
        for task in ["", *(f"{task}/" for task in tasks)]:
            names += [f"{variant}{task}{metric}" for metric in metrics]
    return names


def validating(probes: Mapping[str, Probe]) -> Iterator[Probe]:
    """The measurements that validations make."""
    return (probe for probe in probes.values() if PART in probe.parts)


def objective(config: DictConfig, probes: Mapping[str, Probe], disjoint: bool) -> str:
    """The metric that a run is judged by where the user names none: accuracy, or, where the heads
    have nothing to say, the main value of a probe. Raises `UserError` where there is neither."""
    if heads_speak(config, disjoint):
        return "val/accuracy"
    able = [probe for probe in validating(probes) if probe.main]
    if able:
        return f"val/{able[0].main}"
    if disjoint:
        data = OmegaConf.select(config, "chosen.data") or "data"
        key, why = f"data={data}", "is evaluated on classes that training does not have"
    else:
        key, why = "supervised_weight=0", "no head is taught"
    problem = f"{why}, so there is no accuracy to judge the run by"
    raise UserError(key, problem, "add evaluate/retrieval=default")


def heads_speak(config: DictConfig, disjoint: bool) -> bool:
    """Whether what the heads say in evaluation means anything: they are taught, and asked about
    their own classes."""
    return not disjoint and config.supervised_weight > 0
