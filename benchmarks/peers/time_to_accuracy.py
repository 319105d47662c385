"""FixMatch in equal wall-clock: ours beside semilearn's, the same network, labels and rates.

A short run of each tells how many steps fit into the time; the cosine then ends there. Ours makes
views on the device, semilearn's through Pillow in its loader. Ours runs twice, with the views of
its own recipe and with semilearn's table of RandAugment: strong views have a part in the moments
that normalisation by batch keeps, and after few steps other views alone make several points of
accuracy. Nobody mirrors digits, and neither turns nor shears 8×8 pixels. Accuracy is on the whole
test part at the end of the run, of the averaged weights and of the trained ones. Each is judged by
the one that is better over the seeds: semilearn's average has no warm-up, so that after few steps
it still holds the first weights. That both compute the same loss, `fixmatch.py` proves.

Time is from the first step to the last. On a CPU where all work is one process's it is that of the
processor, which other guests of a shared machine do not take from; else it is wall-clock.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from pytorch_lightning.callbacks import LambdaCallback
from torch import Tensor
from torchvision import transforms

from benchmarks.command import Benchmark
from benchmarks.ours import prepared, train
from benchmarks.peers import semilearn_peer as peer
from benchmarks.record import Record
from benchmarks.speed.bare import BareFixMatch
from benchmarks.verdicts import Spread, judged
from datamodules.views.image import to_unit
from recipes.runs.assembly import Assembly
from recipes.runs.run import build_recipe
from recipes.services.teacher import final_decay
from recipes.step import Embedded

CALIBRATION = 20  # steps
COARSE = ("Rotate", "ShearX", "ShearY")  # what 8×8 pixels do not survive
THEIR_VIEWS = ("data.views.strong.variant=usb", "data.views.strong.cutout=0.5")
SMALL = ("data.labels_per_class=25", "data.batch_size=16")
SETS = {
    "digits": ("data=digits",),
    "fashion_mnist": ("data=fashion_mnist", *SMALL),
    "cifar10": ("data=cifar10", *SMALL, "+network.options.bn_momentum=0.1"),
}
# WRN-28-2 makes one step in 3 s there
ON_A_CPU = {"cifar10": ("network.name=resnet20_cifar", "data.batch_size=8")}
PEER = "semilearn"
CLI = Benchmark("peers/time_to_accuracy", __doc__, ["semilearn"])
CLI.add("data", ["digits"], "sets to train on", choices=list(SETS))
CLI.add_argument("--root", type=Path, help="folder that holds the sets")
CLI.add("seconds", 60.0, "of each run", least=0.01)
CLI.add("seeds", 3, "runs of each", least=1)
CLI.add("workers", 0, "processes of semilearn's loader", least=0)


class Outcome(NamedTuple):
    """Test accuracy in percent, of the averaged weights and of the trained ones themselves."""

    accuracy: float
    raw: float
    steps: int
    seconds: float


def clock_of(options: argparse.Namespace) -> Callable[[], float]:
    alone = options.device == "cpu" and not options.workers
    return time.process_time if alone else time.perf_counter


def prepare(
    name: str, seed: int, steps: int, folder: Path, options: argparse.Namespace, *views: str
) -> Assembly:
    folder.mkdir(parents=True, exist_ok=True)
    more = list(ON_A_CPU.get(name, ())) if options.device == "cpu" else []
    if options.root is not None and name != "digits":
        more.append(f"data.root={options.root}")
    overrides = ("recipe=fixmatch", *SETS[name], *views, f"seed={seed}", *more)
    return prepared(steps, folder, options.device, overrides)


def pictures_of_test(assembly: Assembly) -> tuple[Tensor, Tensor]:
    """Pictures uint8 and labels."""
    part = assembly.datamodule.parts["test"]
    return part.source.fetch(part.rows), part.targets["label"]


@torch.no_grad()
def percent(network: Any, test: tuple[Tensor, Tensor], device: str) -> float:
    right = 0
    for pixels, labels in zip(*(part.split(500) for part in test), strict=True):
        logits = network.eval()(Embedded(to_unit(pixels.to(device)))).logits["label"]
        right += int((logits.argmax(1).cpu() == labels).sum())
    return 100.0 * right / len(test[1])


def ours(
    name: str, seed: int, steps: int, folder: Path, options: argparse.Namespace, *views: str
) -> Outcome:
    """As `train.py` runs it, one short validation at the end. views: overrides beside the
    recipe."""
    assembly = prepare(name, seed, steps, folder, options, *views)
    recipe = build_recipe(assembly)
    clock, times = clock_of(options), []

    def note(*_: Any) -> None:
        times.append(clock())

    train(assembly, recipe, folder, LambdaCallback(on_train_start=note, on_train_end=note))
    assert recipe.teacher is not None
    test, device = pictures_of_test(assembly), options.device
    accuracy = percent(recipe.teacher.network.to(device), test, device)
    raw = percent(recipe.network.to(device), test, device)
    return Outcome(accuracy, raw, steps, times[1] - times[0])


def transforms_of(name: str, side: int) -> tuple[list[Any], list[Any]]:
    """Pillow's weak and strong transforms of a set. RandAugment is for colour, so grey pictures
    become so for it."""
    parts = peer.load()
    assert parts is not None
    digits, colour = name == "digits", name == "cifar10"
    padding = {"padding": side // 8} | ({} if digits else {"padding_mode": "reflect"})
    weak: list[Any] = [transforms.RandomCrop(side, **padding)]
    if not digits:
        weak.append(transforms.RandomHorizontalFlip())
    augment = parts.RandAugment(3, 5)
    if digits:
        fine = [entry for entry in augment.augment_list if entry[0].__name__ not in COARSE]
        augment.augment_list = fine
    if colour:
        return weak, [*weak, augment]
    return weak, [*weak, transforms.Grayscale(3), augment, transforms.Grayscale()]


def decay_of(assembly: Assembly) -> float:
    """Of the averaged weights, once the warm-up is over."""
    request = assembly.composition.teacher
    if request is None:
        raise ValueError("no method of this recipe averages weights")
    return final_decay(request, assembly.trainer.max_steps)


def theirs(name: str, seed: int, steps: int, folder: Path, options: argparse.Namespace) -> Outcome:
    assembly = prepare(name, seed, steps, folder, options)
    # weights, labels and rates that ours begins with
    bare = BareFixMatch(assembly, folder, options.device)
    method: Any = assembly.composition.methods["fixmatch"]
    weak, strong = transforms_of(name, assembly.datamodule.info.shape[1])
    made = peer.algorithm(
        bare,
        steps,
        averaging=decay_of(assembly),
        threshold=method.threshold,
        workers=options.workers,
        weak=weak,
        strong=strong,
    )
    clock = clock_of(options)
    start = clock()
    for _, batch in zip(range(steps), peer.loaded(made), strict=False):
        peer.step(made, batch)
    seconds = clock() - start
    test = pictures_of_test(assembly)
    raw = percent(made.model.network, test, options.device)
    made.ema.apply_shadow()
    return Outcome(percent(made.model.network, test, options.device), raw, steps, seconds)


Run = Callable[..., Outcome]


def roux_with_their_views(*settings: Any) -> Outcome:
    return ours(*settings, *THEIR_VIEWS)


RUNS: dict[str, Run] = {
    "Roux": ours,
    "Roux, semilearn's views": roux_with_their_views,
    PEER: theirs,
}


def fitting(run: Run, name: str, folder: Path, options: argparse.Namespace) -> int:
    """Steps that fit into the time."""
    short = run(name, 0, CALIBRATION, folder, options)
    return max(int(options.seconds * CALIBRATION / short.seconds), 1)


def spread(values: list[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0.0:.1f}"


def better(outcomes: list[Outcome]) -> list[float]:
    """Accuracies by seed, of the averaged or of the trained weights, whichever are better in the
    mean."""
    return max(([o.accuracy for o in outcomes], [o.raw for o in outcomes]), key=mean)


def raced(name: str, options: argparse.Namespace, folder: Path) -> dict[str, list[Outcome]]:
    """What each reaches on one set, by seed."""
    runs = {who: run for who, run in RUNS.items() if who != PEER or peer.load() is not None}
    places = {who: folder / f"{name}-{place}" for place, who in enumerate(runs)}
    steps = {who: fitting(run, name, places[who], options) for who, run in runs.items()}
    found: dict[str, list[Outcome]] = {who: [] for who in runs}
    for seed in range(options.seeds):
        for who, run in runs.items():
            outcome = run(name, seed, steps[who], places[who] / str(seed), options)
            found[who].append(outcome)
            reached = f"averaged {outcome.accuracy:.1f} %, trained {outcome.raw:.1f} %"
            print(f"{name}, {who}, seed {seed}: {reached} in {outcome.seconds:.0f} s", flush=True)
    return found


def measure(record: Record, options: argparse.Namespace) -> str | None:
    record.hide(options.root)
    rows, behind = [], {}
    for name in options.data:
        with tempfile.TemporaryDirectory() as folder:
            found = raced(name, options, Path(folder))
        for who, outcomes in found.items():
            averaged, raw = ([o[i] for o in outcomes] for i in (0, 1))
            seconds = f"{mean(o.seconds for o in outcomes):.0f}"
            steps = str(outcomes[0].steps)
            rows.append([name, who, spread(averaged), spread(raw), steps, seconds])
            record.figures[f"{name}/{who}"] = [outcome._asdict() for outcome in outcomes]
            if who != PEER and PEER in found:
                pairs = zip(better(found[PEER]), better(outcomes), strict=True)
                behind[f"{name}, {who}"] = Spread([other - mine for other, mine in pairs])
    head = ["data", "who", "averaged weights, %", "trained weights, %", "steps", "seconds"]
    kind = "s of the processor" if clock_of(options) is time.process_time else "s"
    title = f"{options.seeds} seeds, {options.seconds:g} {kind} each"
    record.table(title, head, rows, "± is the deviation over the seeds.")
    if behind:
        text = "semilearn not ahead in equal wall-clock, its points beyond ours"
        judged(record, text, behind, 0.0)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
