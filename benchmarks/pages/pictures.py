"""The pictures of the families' pages, from the numbers that `results.py` kept.

    python benchmarks/pages/pictures.py               # docs/pictures/FAMILY.png, all of them
    python benchmarks/pages/pictures.py long_tail     # one of them

Every dot is one run; the bar is the mean of the seeds.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

from benchmarks.command import Command
from benchmarks.machine import ROOT
from benchmarks.pages.results import KEPT, gain, sets
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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURES = ROOT / "docs" / "pictures"
DOT: dict[str, Any] = {"alpha": 0.55, "markersize": 5.5, "markeredgewidth": 0}
LABEL: dict[str, Any] = {"xytext": (7, -3), "textcoords": "offset points", "fontsize": 9}
BAR: dict[str, Any] = {"markersize": 17, "markeredgewidth": 2}
Rows = Mapping[str, Mapping[str, float]]  # row -> seed -> number


def kept(name: str) -> dict[str, Any]:
    """The rows of a set that have numbers, in the order of the set."""
    rows = load(KEPT / f"{name}.json", {"rows": {}})["rows"]
    return {row: rows[row]["seeds"] for row in sets()[name]["rows"] if row in rows}


def numbers(name: str, metric: str) -> Rows:
    """What every run of a set measured."""
    found = {}
    for row, seeds in kept(name).items():
        found[row] = {seed: run[metric] for seed, run in seeds.items() if metric in run}
    return {row: seeds for row, seeds in found.items() if seeds}


def dots(axes: "Axes", rows: Rows, title: str, names: bool = True) -> None:
    """A line of dots for every row, the first on top."""
    for place, seeds in enumerate(rows.values()):
        values, colour = list(seeds.values()), SERIES[place % len(SERIES)]
        axes.plot(values, [place] * len(values), "o", color=colour, **DOT)
        mean = sum(values) / len(values)
        axes.plot([mean], [place], "|", color=colour, **BAR)
    axes.set_yticks(range(len(rows)), list(rows) if names else [""] * len(rows), color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.06)
    axes.set_title(title)
    axes.grid(axis="y", visible=False)


def panels(*wanted: tuple[str, str, str], width: float = 8.4) -> "Figure":
    """A panel for each (set, metric, title), side by side; a set names its rows once."""
    found = [(name, numbers(name, metric), title) for name, metric, title in wanted]
    figure = new_figure(width, 0.75 + 0.36 * max(len(rows) for _, rows, _ in found))
    named = None
    side_by_side = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, rows, title) in zip(side_by_side, found, strict=True):
        dots(axes, rows, title, names=name != named)
        percent_axis(axes.xaxis)
        named = name
    return figure


@styled
def semi_supervised() -> "Figure":
    return panels(("digits", "test/accuracy", "Digits, 40 labels: test accuracy"), width=6.6)


@styled
def long_tail() -> "Figure":
    groups = [("many", "many-shot classes"), ("medium", "medium"), ("few", "few-shot")]
    return panels(*(("long_tail", f"test/accuracy_{key}", title) for key, title in groups))


@styled
def metric_learning() -> "Figure":
    found = [("test/recall@1", "Recall@1"), ("test/map@r", "MAP@R"), ("test/nmi", "NMI")]
    return panels(*(("metric", metric, title) for metric, title in found))


@styled
def multi_task() -> "Figure":
    """Δm for every way of weighing, and zero: the tasks alone."""
    alone = sets()["multi_task"]["alone"]
    seeds = {row: {"seeds": runs} for row, runs in kept("multi_task").items()}
    together: dict[str, dict[str, float]] = {}
    for row, runs in seeds.items():
        if row in alone.values():
            continue
        together[row] = {}
        for seed, run in runs["seeds"].items():
            one = {row: {"seeds": {seed: run}}}
            together[row][seed] = float(gain(alone, seeds | one, row))
    figure = new_figure(6.6, 2.6)
    axes = figure.subplots()
    dots(axes, together, "Fashion+MNIST: Δm in percent; 0 is a network for each task")
    axes.axvline(0, color=MUTED, linewidth=1)
    return figure


@styled
def peft() -> "Figure":
    """Accuracy over the number of trained parameters, for the text encoder and the ViT."""
    figure = new_figure(8.4, 3.1)
    titles = {"peft": "MiniLM on CLINC150", "vit": "ViT, Fashion-MNIST to MNIST"}
    measured = [name for name in titles if kept(name)]
    side_by_side = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, name in zip(side_by_side, measured, strict=True):
        accuracies, sizes = numbers(name, "test/accuracy"), numbers(name, "trained")
        for place, (row, seeds) in enumerate(accuracies.items()):
            size, mean = next(iter(sizes[row].values())), sum(seeds.values()) / len(seeds)
            axes.plot([size] * len(seeds), list(seeds.values()), "o", color=SERIES[place], **DOT)
            axes.annotate(row, (size, mean), color=SERIES[place], **LABEL)
        axes.set_xscale("log")
        axes.margins(x=0.45, y=0.12)
        log_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        axes.set_title(titles[name])
        axes.set_xlabel("trained parameters")
    return figure


@styled
def adversarial() -> "Figure":
    """Robust accuracy over the radius of the attack, of the networks of the first seed."""
    figure = new_figure(6.6, 3.2)
    axes = figure.subplots()
    clean, own = (numbers("adversarial", f"test/{kind}_accuracy") for kind in ("clean", "robust"))
    others = numbers("adversarial_radii", "test/robust_accuracy")
    for place, row in enumerate(own):
        curve = {0.0: clean[row]["0"], 0.1: own[row]["0"]}
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


FAMILIES = (semi_supervised, long_tail, metric_learning, multi_task, peft, adversarial)
DRAW: dict[str, Callable[[], "Figure"]] = {function.__name__: function for function in FAMILIES}
# the set without which there is no picture
NEEDS = {"semi_supervised": "digits", "metric_learning": "metric"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Command("pages/pictures", __doc__)
    about = f"of {', '.join(DRAW)}; all of them where none is named"
    parser.add_argument("families", nargs="*", help=about)
    families = parser.parse_args(argv).families or list(DRAW)
    unknown = sorted(set(families) - DRAW.keys())
    if unknown:
        parser.error(f"no picture of {', '.join(unknown)}")
    PICTURES.mkdir(exist_ok=True)
    for family in families:
        if not kept(NEEDS.get(family, family)):
            print(f"{family}: nothing measured yet, no picture")
            continue
        (PICTURES / f"{family}.png").write_bytes(to_png(DRAW[family]()))
        print(PICTURES / f"{family}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
