"""The pictures of the families' pages, from the numbers that `results.py` kept.

    python benchmarks/pages/pictures.py               # docs/pictures/FAMILY.png, all of them
    python benchmarks/pages/pictures.py long_tail     # one of them

Every dot is one run; the bar is the mean of the seeds.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

from benchmarks.command import Command
from benchmarks.machine import ROOT
from benchmarks.pages.results import KEPT, gains, sets
from benchmarks.record import load
from recipes.report.style import (
    INK,
    MUTED,
    SERIES,
    log_axis,
    new_figure,
    percent_axis,
    styled,
    to_png,
)

PICTURES = ROOT / "docs" / "pictures"
DOT: dict[str, Any] = {"alpha": 0.55, "markersize": 5.5, "markeredgewidth": 0}
LABEL: dict[str, Any] = {"xytext": (7, -3), "textcoords": "offset points", "fontsize": 9}
BAR: dict[str, Any] = {"markersize": 17, "markeredgewidth": 2}
Rows = Mapping[str, Mapping[str, float]]  # row -> seed -> number


def numbers(name: str, metric: str) -> Rows:
    """What every run of a set measured, in the order of the set; rows without numbers left out."""
    kept = load(KEPT / f"{name}.json", {"rows": {}})["rows"]
    found = {}
    for row in sets()[name]["rows"]:
        seeds = kept.get(row, {}).get("seeds", {})
        found[row] = {seed: run[metric] for seed, run in seeds.items() if metric in run}
    return {row: seeds for row, seeds in found.items() if seeds}


def dots(axes: Any, rows: Rows, title: str) -> None:
    """A line of dots for every row, the first on top."""
    for place, seeds in enumerate(rows.values()):
        values, colour = list(seeds.values()), SERIES[place % len(SERIES)]
        axes.plot(values, [place] * len(values), "o", color=colour, **DOT)
        axes.plot([fmean(values)], [place], "|", color=colour, **BAR)
    axes.set_yticks(range(len(rows)), list(rows), color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.06)
    axes.set_title(title)
    axes.grid(axis="y", visible=False)


@styled
def panels(name: str, titles: Mapping[str, str]) -> Any:
    """A panel for each metric of a set, side by side; the first one names the rows. titles: by
    metric."""
    found = {metric: numbers(name, metric) for metric in titles}
    width = 6.6 if len(titles) == 1 else 8.4
    figure = new_figure(width, 0.75 + 0.36 * max(map(len, found.values())))
    side_by_side = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, (metric, title) in zip(side_by_side, titles.items(), strict=True):
        dots(axes, found[metric], title)
        percent_axis(axes.xaxis)
    for axes in side_by_side[1:]:
        axes.set_yticklabels([])
    return figure


@styled
def multi_task() -> Any:
    """Δm for every way of weighing, and zero: the tasks alone."""
    entry = sets()["multi_task"]
    kept = load(KEPT / "multi_task.json")["rows"]
    together = {}
    for row in entry["rows"]:
        if row in kept and row not in entry["alone"].values():
            together[row] = gains(entry["alone"], kept, row)
    figure = new_figure(6.6, 2.6)
    axes = figure.subplots()
    dots(axes, together, "Fashion+MNIST: Δm in percent; 0 is a network for each task")
    axes.axvline(0, color=MUTED, linewidth=1)
    return figure


@styled
def peft() -> Any:
    """Accuracy over the number of trained parameters, for the text encoder and the ViT."""
    titles = {"peft": "MiniLM on CLINC150", "vit": "ViT, Fashion-MNIST to MNIST"}
    figure = new_figure(8.4, 3.1)
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        sizes = numbers(name, "trained")
        for place, (row, seeds) in enumerate(numbers(name, "test/accuracy").items()):
            size, values = max(sizes[row].values()), list(seeds.values())
            axes.plot([size] * len(values), values, "o", color=SERIES[place], **DOT)
            axes.annotate(row, (size, fmean(values)), color=SERIES[place], **LABEL)
        axes.set_xscale("log")
        axes.margins(x=0.45, y=0.12)
        log_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.set_title(title)
        axes.set_xlabel("trained parameters")
    return figure


@styled
def adversarial() -> Any:
    """Robust accuracy over the radius of the attack, of the networks of the first seed."""
    figure = new_figure(6.6, 3.2)
    axes = figure.subplots()
    clean = numbers("adversarial", "test/clean_accuracy")
    others = numbers("adversarial_radii", "test/robust_accuracy")
    for place, (row, own) in enumerate(numbers("adversarial", "test/robust_accuracy").items()):
        curve = {0.0: clean[row]["0"], 0.1: own["0"]}
        for name, runs in others.items():
            if name.startswith(f"{row} at "):
                curve[float(name.split()[-1])] = runs["0"]
        radii = sorted(curve)
        robust = [curve[radius] for radius in radii]
        axes.plot(radii, robust, "o-", color=SERIES[place], markersize=5, label=row)
    axes.axvline(0.1, color=MUTED, linewidth=1, linestyle=":")
    axes.set_xlabel("radius in linf (dotted: the one of training)")
    axes.set_title("Fashion-MNIST: accuracy under PGD-20, two restarts")
    axes.legend()
    percent_axis(axes.yaxis)
    return figure


DIGITS = {"test/accuracy": "Digits, 40 labels: test accuracy"}
SHOTS = {
    "test/accuracy_many": "many-shot classes",
    "test/accuracy_medium": "medium",
    "test/accuracy_few": "few-shot",
}
SEARCH = {"test/recall@1": "Recall@1", "test/map@r": "MAP@R", "test/nmi": "NMI"}
DRAW: dict[str, Callable[[], Any]] = {
    "semi_supervised": partial(panels, "digits", DIGITS),
    "long_tail": partial(panels, "long_tail", SHOTS),
    "metric_learning": partial(panels, "metric", SEARCH),
    "multi_task": multi_task,
    "peft": peft,
    "adversarial": adversarial,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Command("pages/pictures", __doc__)
    parser.add_argument("family", nargs="?", choices=list(DRAW), help="all where none is named")
    family = parser.parse_args(argv).family
    for name in [family] if family else DRAW:
        path = PICTURES / f"{name}.png"
        path.write_bytes(to_png(DRAW[name]()))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
