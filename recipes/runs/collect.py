"""What the page of a run shows, gathered from the recipe, the loggers and the machine."""

import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.engine.recipe import Recipe
from recipes.loggers.build import metrics_files
from recipes.report.record import RunRecord, ViewRow
from recipes.runs.assembly import Assembly
from recipes.runs.changes import config_text
from recipes.runs.title import recipe_title
from recipes.step.step import Step

PACKAGES = ("torch", "pytorch-lightning", "timm", "transformers", "hydra-core")
SHEET_ROWS = 16


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
    tasks = assembly.datamodule.tasks
    return RunRecord(
        title=f"{recipe_title(assembly.config)} on {assembly.chosen('data')}",
        command=shlex.join(["python", "train.py", *command]),
        plan=plan,
        config=config_text(assembly.config, assembly.changes),
        changes=[str(change) for change in assembly.changes],
        history=history,
        final=final,
        reported="averaged" if recipe.composition.evaluates_teacher else "reported",
        classes=dict(assembly.datamodule.classes),
        train_counts={task: assembly.datamodule.class_counts(task).tolist() for task in tasks},
        confusion={task: matrix.tolist() for task, matrix in recipe.evaluator.confusion.items()},
        class_results={task: n.tolist() for task, n in recipe.evaluator.class_counts.items()},
        views=sheet(recipe.last_step, assembly) if recipe.last_step else [],
        seconds={"train": final["train_seconds"]},
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        hardware=hardware(recipe.device),
    )


def hardware(device: torch.device) -> str:
    """The processor, or the accelerator, that the run was on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def sheet(step: Step, assembly: Assembly) -> list[ViewRow]:
    """The first samples of a step as training saw them: both views, and what the method believed of
    them."""
    stream = "unlabeled" if "unlabeled" in step.streams else "labeled"
    asked = assembly.composition.views[stream]
    first = [name for name in asked if name.startswith("weak")][:1] or list(asked[:1])
    second = [name for name in asked if name not in first][-1:] or ["raw"]
    pictures = [readable(step.view(stream, name), assembly) for name in (*first, *second)]
    task = step.tasks[0]
    names = assembly.datamodule.classes[task]
    pseudo = step.pseudo.get(task)
    truth = step.streams[stream].targets[task].tolist()
    rows = []
    for i, (weak, strong) in enumerate(zip(*pictures, strict=True)):
        row = ViewRow(
            assembly.datamodule.kind, weak, strong, true=names[truth[i]] if truth[i] >= 0 else None
        )
        if pseudo is not None and stream == "unlabeled":
            row.pseudo_label = names[int(pseudo.labels[i])]
            row.confidence = float(pseudo.probabilities[i].max())
            row.kept = bool(pseudo.mask[i] > 0)
        rows.append(row)
    return rows


def readable(view: Any, assembly: Assembly) -> list[Any]:
    """The first rows of a view for people: uint8 [H, W, C] pictures, or words."""
    if isinstance(view, Tensor):
        pixels = (view[:SHEET_ROWS].detach().float().clamp(0, 1) * 255).round().byte().cpu()
        return list(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()))
    return assembly.datamodule.decode({name: values[:SHEET_ROWS] for name, values in view.items()})
