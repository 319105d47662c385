"""What the page of a run shows, gathered from the recipe, the loggers and the machine."""

import platform
import shlex
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.datamodule import StreamDataModule
from datamodules.streams import Part
from foundation.attempts import Attempts
from recipes.contract.exhibit import Shown
from recipes.contract.probe import Probe
from recipes.contract.remark import FLAGGED
from recipes.engine.recipe import Recipe
from recipes.loggers.build import metrics_files
from recipes.report.record import Gallery, RunRecord, Sample, ViewRow
from recipes.setup.assemble import Assembly
from recipes.setup.changes import config_text
from recipes.setup.title import run_title
from recipes.step.step import Step

PACKAGES = ("torch", "pytorch-lightning", "timm", "transformers", "hydra-core")
SHEET_ROWS = 16
LARGEST = 6  # samples of a value that the report shows


def collect(
    assembly: Assembly,
    recipe: Recipe,
    loggers: Sequence[Any],
    plan: str,
    command: list[str],
    final: dict[str, float],
) -> RunRecord:
    """The record of a finished run. Adds to `final` the median of the monitored metric over the
    last 20 validations."""
    files = metrics_files(loggers)
    history = list(files.history) if files else []
    monitor = str(assembly.config.monitor)
    validated = [row[monitor] for row in history if row.get(monitor) is not None]
    if validated:
        final[f"{monitor}_median20"] = median(validated[-20:])
    step = recipe.last_step
    attempts = Attempts()
    data = assembly.datamodule
    names = view_names(step, assembly) if step else ("weak", "strong")
    record = RunRecord(
        title=run_title(assembly.config),
        command=shlex.join(["python", "train.py", *command]),
        plan=plan,
        config=attempts.make("config", lambda: config_text(assembly.config, assembly.changes), ""),
        changes=[str(change) for change in assembly.changes],
        warnings=list(recipe.collapse.lines),
        history=history,
        final=final,
        monitor=monitor,
        reported="averaged" if recipe.composition.evaluates_teacher else "reported",
        classes=dict(data.classes),
        train_counts=attempts.make("training labels", lambda: training_labels(data), {}),
        confusion=attempts.make("confusion matrix", lambda: confusion(recipe), {}),
        class_results=attempts.make("class counts", lambda: class_results(recipe), {}),
        views=attempts.make("views", lambda: sheet(step, names, assembly) if step else [], []),
        view_names=names,
        seconds={"train": final["train_seconds"]},
        versions=attempts.make("versions", versions, {}),
        hardware=attempts.make("hardware", lambda: hardware(recipe.device), ""),
        terms=[f"train/{name}" for name in step.terms] if step else [],
    )
    record.remarks = attempts.make("values of samples", lambda: summaries(recipe), {})
    largest = partial(most_remarkable, recipe, assembly)
    record.galleries += attempts.make("samples of the largest values", largest, [])
    for name, probe in assembly.probes.items():
        record.measured[name] = attempts.make(name, probe.describe, "")
        exhibit = partial(galleries, probe, assembly)
        record.galleries += attempts.make(f"samples of {name}", exhibit, [])
    record.lost = attempts.lost
    return record


def training_labels(data: StreamDataModule) -> dict[str, list[int]]:
    """Numbers of training labels [C] by task."""
    return {task: data.class_counts(task).tolist() for task in data.tasks}


def confusion(recipe: Recipe) -> dict[str, Any]:
    return {task: matrix.tolist() for task, matrix in recipe.evaluator.confusion.items()}


def class_results(recipe: Recipe) -> dict[str, Any]:
    return {task: counts.tolist() for task, counts in recipe.evaluator.class_counts.items()}


def summaries(recipe: Recipe) -> dict[str, dict[str, float]]:
    """How the values that methods give for each test sample are distributed."""
    found = {}
    for name, values in recipe.reported.remarked.values.items():
        known = values[values.isfinite()].double()
        if not len(known):
            continue
        low, middle, high = np.quantile(known.numpy(), [0.05, 0.5, 0.95])
        found[name] = {
            "mean": float(known.mean()),
            "5 %": float(low),
            "median": float(middle),
            "95 %": float(high),
            "largest": float(known.max()),
        }
    return found


def most_remarkable(recipe: Recipe, assembly: Assembly) -> list[Gallery]:
    """The test samples with the largest values, of each that has an alarm."""
    remarked = recipe.reported.remarked
    found = []
    for name, values in remarked.values.items():
        if name + FLAGGED not in remarked.values:
            continue
        rows = values.nan_to_num(-torch.inf).argsort(descending=True)[:LARGEST].tolist()
        shown = [Shown(int(remarked.index[i]), caption=f"{values[i]:.3g}") for i in rows]
        note = f"The test samples with the largest {name}."
        found.append(Gallery(name, note, [[sample(one, assembly) for one in shown]]))
    return found


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware(device: torch.device) -> str:
    """The processor, or the accelerator, that the run was on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


def stream_shown(step: Step) -> str:
    return "unlabeled" if "unlabeled" in step.streams else "labeled"


def view_names(step: Step, assembly: Assembly) -> tuple[str, str]:
    """The two views of the report: the weak one and the last other one that training asked for;
    the stored sample where there is no other."""
    asked = assembly.composition.views[stream_shown(step)]
    first = [name for name in asked if name.startswith("weak")][:1] or list(asked[:1])
    second = [name for name in asked if name not in first][-1:] or ["raw"]
    return first[0], second[0]


def sheet(step: Step, names: tuple[str, str], assembly: Assembly) -> list[ViewRow]:
    """The first samples of a step as training saw them: two views, and their pseudo-labels."""
    stream = stream_shown(step)
    pictures = [readable(step.view(stream, name), assembly) for name in names]
    task = step.tasks[0]
    classes = assembly.datamodule.classes[task]
    pseudo = step.pseudo.get(task)
    truth = step.streams[stream].targets[task].tolist()
    rows = []
    for i, (weak, strong) in enumerate(zip(*pictures, strict=True)):
        row = ViewRow(
            assembly.datamodule.kind,
            weak,
            strong,
            true=classes[truth[i]] if truth[i] >= 0 else None,
        )
        if pseudo is not None and stream == "unlabeled":
            row.pseudo_label = classes[int(pseudo.labels[i])]
            row.confidence = float(pseudo.probabilities[i].max())
            row.kept = bool(pseudo.mask[i] > 0)
        rows.append(row)
    return rows


def readable(view: Any, assembly: Assembly) -> list[Any]:
    """The first rows of a view for people: uint8 [H, W, C] pictures, or words."""
    if isinstance(view, Tensor):
        pixels = (view[:SHEET_ROWS].detach().float().clamp(0, 1) * 255).round().byte().cpu()
        if pixels.shape[1] not in (1, 3):
            # of bands the first three are shown as colours
            pixels = pixels[:, : 3 if pixels.shape[1] > 3 else 1]
        return list(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()))
    return assembly.datamodule.decode({name: values[:SHEET_ROWS] for name, values in view.items()})


def galleries(probe: Probe, assembly: Assembly) -> list[Gallery]:
    """The samples that a measurement shows, as people see them; empty if it shows none."""
    exhibit = probe.exhibit()
    if exhibit is None:
        return []
    rows = [[sample(shown, assembly) for shown in row] for row in exhibit.rows]
    return [Gallery(exhibit.title, exhibit.note, rows)]


def sample(shown: Shown, assembly: Assembly) -> Sample:
    data = assembly.datamodule
    if shown.pixels is None:
        assert shown.index is not None, "an exhibit's sample has an index or pixels"
        tested = data.splits.test
        stored = Part.whole(tested).fetch(torch.tensor([shown.index]))
        view = readable(data.make_view(stored, "raw"), assembly)[0]
    else:
        view = readable(shown.pixels[None], assembly)[0]
    words = [shown.caption]
    if shown.label is not None and shown.label >= 0:
        # evaluation may have other classes than training
        words.append(data.splits.test.classes[shown.task][shown.label])
    return Sample(view, ": ".join(word for word in words if word), shown.right)
