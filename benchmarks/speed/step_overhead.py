"""What a step of ours costs on the host beside a bare hand-written loop.

    python -m benchmarks.speed.step_overhead
    python -m benchmarks.speed.step_overhead --recipes fixmatch --regimes host --json out.json

First both must give bit-equal losses for 20 steps, or the script stops and names the step. Then all
variants run in one process, ten steps each in turn. `host` has a network so small that calls are
the cost, `device` one so large that computing is. `five_methods` is FixMatch, Pi-Model, logit
adjustment, label smoothing and averaged weights in one step, with every number that they log. The
README has the rules.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from torch import Tensor, equal

from benchmarks.clock import BLOCK, Clock, race, steady_memory
from benchmarks.command import Benchmark
from benchmarks.contest import allocations
from benchmarks.ours import Runs
from benchmarks.record import Record
from benchmarks.speed.bare import Bare, BareFixMatch, BareLightning, Batches
from benchmarks.speed.bare_five import BareFive
from benchmarks.table import mebibytes
from benchmarks.verdicts import Spread, apart, listed
from recipes.runs.run import quieten

Run = Callable[[Clock], list[Tensor]]
Found = dict[str, dict[str, Spread]]  # by variant and column
PROOF = 20  # steps whose losses must be bit-equal
LOOPS: dict[str, type[Bare]] = {
    "supervised": Bare,
    "fixmatch": BareFixMatch,
    "five_methods": BareFive,
}
RECIPES: dict[str, tuple[str, ...]] = {
    "supervised": ("recipe=supervised",),
    "fixmatch": ("recipe=fixmatch",),
    "five_methods": (
        "recipe=fixmatch",
        "semi_supervised=[fixmatch,pi_model]",
        "long_tail=logit_adjustment",
        "regularization=label_smoothing",
    ),
}
# optimizer and precision as the loops have them
SAME = (
    "data=digits",
    "data.labels_per_class=4",
    "optimizer=sgd",
    "trainer.precision=32-true",
    "trainer.channels_last=false",
)
ABOUT = {
    "host": "a network so small that the host is the limit",
    "device": "a network and a batch so large that computing is the limit",
}
CASES = {"host": list(RECIPES), "device": ["supervised", "fixmatch"]}
# where computing is the limit: batch size alone and beside three times as many unlabeled, width
LARGE = {"cpu": (64, 12, 96), "cuda": (512, 128, 256)}
WIDTH = "+network.options.width"
COLUMNS = ["CPU", "wall", "ratio", "difference", "beyond Lightning"]
BARE, FREE, LIGHTNING, OURS = "bare loop", "bare loop, free", "bare step in Lightning", "Roux"
ALLOWED = 0.3  # ms a step of ours may cost beyond Lightning's own
SHARE = 1.03  # of the bare loop's time, where the device is the limit
KEPT = 1.01  # of the bytes that the bare loop allocates
ADDED = "a CPU computes nothing while the host works, so that a step's cost is added"
UNSURE = "what is above the limit has the limit in its interval"
MASKS = "numbers kept for the log and the masks of terms, a few hundred bytes each"
CLI = Benchmark("speed/step_overhead", __doc__, repeats=5, warmup=10)
CLI.add("recipes", list(RECIPES), "all by default", choices=list(RECIPES))
CLI.add("regimes", list(ABOUT), "both by default", choices=list(ABOUT))
CLI.add("steps", 40, "steps in the window of a run", least=1)
CLI.rule(
    lambda options: options.steps % BLOCK == options.warmup % BLOCK == 0,
    f"--steps and --warmup are multiples of {BLOCK}",
)


def overrides_of(case: str, regime: str, device: str) -> tuple[str, ...]:
    """The command of a run."""
    alone, labeled, width = LARGE[device]
    if regime == "host":
        sizes = ["data.batch_size=64", f"{WIDTH}=4"]
    elif case == "supervised":
        sizes = [f"data.batch_size={alone}", f"{WIDTH}={width}"]
    else:
        sizes = [f"data.batch_size={labeled}", "data.unlabeled_ratio=3", f"{WIDTH}={width}"]
    return (*RECIPES[case], *SAME, *sizes)


class Bench(Runs):
    """The variants of one case in one regime: each runs `clock.total` steps from the same start."""

    def __init__(self, case: str, regime: str, device: str, folder: Path):
        super().__init__(device, folder / f"{regime}_{case}", overrides_of(case, regime, device))
        self.loop = LOOPS[case]
        self.variants: dict[str, Run] = {BARE: self.bare}
        if regime == "host":
            self.variants[FREE] = partial(self.bare, free=True)
        self.variants |= {LIGHTNING: self.lightning, OURS: self.ours}

    def bare(self, clock: Clock, free: bool = False) -> list[Tensor]:
        """The hand-written loop; returns its losses."""
        loop = self.loop(*self.assembly(clock.total), self.device, free)
        loop.run(clock)
        return loop.losses

    def lightning(self, clock: Clock) -> list[Tensor]:
        """Its step inside the least LightningModule."""
        loop = self.loop(*self.assembly(clock.total), self.device)
        quieten()
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = pl.Trainer(
            accelerator=self.device,
            devices=1,
            max_steps=clock.total,
            **dict.fromkeys(off, False),
        )
        trainer.fit(BareLightning(loop, clock), train_dataloaders=Batches(loop))
        return loop.losses

    def allocated(self, run: Run) -> float:
        """Bytes that tensors take from the allocator in one step: what ten further steps take, over
        ten."""
        taken = []
        for total in (BLOCK, 2 * BLOCK):
            counts = allocations(lambda total=total: run(Clock(0, total - 1)))
            taken.append(sum(count for count in counts if count > 0))
        return (taken[1] - taken[0]) / BLOCK


def first_difference(ours: list[Tensor], bare: list[Tensor]) -> int | None:
    """The first step whose losses are not equal to the last bit, None where all are."""
    for step, (a, b) in enumerate(zip(ours, bare, strict=True)):
        if not equal(a, b):
            return step
    return None


def times_of(bench: Bench, options: argparse.Namespace) -> Found:
    """Medians of the blocks of each repeat; ratios and differences are of blocks that ran one after
    the other."""
    found: Found = {name: {column: Spread() for column in COLUMNS} for name in bench.variants}
    for _ in range(options.repeats):
        settings = {"warmup": options.warmup, "steps": options.steps, "device": options.device}
        times = race(bench.variants, options.threads, **settings)
        for name, one in times.items():
            values = [
                one.of("cpu"),
                one.of("wall"),
                times[BARE].ratio(one, options.by),
                one.beyond(times[BARE], options.by),
                one.beyond(times[LIGHTNING], options.by),
            ]
            for column, value in zip(COLUMNS, values, strict=True):
                found[name][column].values.append(value.median)
    return found


def rows_of(found: Found) -> list[list[str]]:
    rows = []
    for name, spreads in found.items():
        texts = {column: spread.text() for column, spread in spreads.items()}
        texts["ratio"] = spreads["ratio"].text(1, 2)
        rows.append([name, *texts.values()])
    return rows


def chosen(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(regime, case) of what was asked for, where there is such."""
    pairs = [(regime, case) for regime in options.regimes for case in CASES[regime]]
    return [(regime, case) for regime, case in pairs if case in options.recipes]


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    steady_memory()
    found: dict[tuple[str, str], Found] = {}
    taken: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for regime, case in chosen(options):
            bench = Bench(case, regime, options.device, Path(folder))
            step = first_difference(*(run(Clock(0, PROOF - 1)) for run in (bench.ours, bench.bare)))
            if step is not None:
                return f"{case}, {regime}: losses differ first at step {step}"
            print(f"\n{case}, {regime}: losses of {PROOF} steps are bit-equal", flush=True)
            found[regime, case] = times_of(bench, options)
            head = ["ms a step, median (min..max)", *COLUMNS]
            record.table(f"{case}: {ABOUT[regime]}", head, rows_of(found[regime, case]))
            if regime == "host" and options.device == "cpu":
                taken[case] = bench.allocated(bench.ours), bench.allocated(bench.bare)
    if ("host", "five_methods") in found:
        judge_host(record, found["host", "five_methods"])
    by_device = {case: one for (regime, case), one in found.items() if regime == "device"}
    if by_device:
        judge_device(record, by_device)
    if taken:
        judge_memory(record, taken)
    return None


# -- targets ---------------------------------------------------------------------------------------
def judge_host(record: Record, found: Found) -> None:
    beyond = found[OURS]["beyond Lightning"]
    _, met = apart({OURS: Spread([1e3 * value for value in beyond.values])}, ALLOWED)
    text = "host cost of our step at most Lightning's own plus 0.3 ms with five methods logging"
    measured = f"Lightning's own and {beyond.text(1e3, 2)} ms"
    record.target(text, measured, met, UNSURE if met is None else "")


def judge_device(record: Record, found: Mapping[str, Found]) -> None:
    """Where it is missed: what the bare step takes in Lightning's loop over the bare loop's time,
    and what ours takes beyond that."""
    ratios = {case: one[OURS]["ratio"] for case, one in found.items()}
    above, met = apart(ratios, SHARE)
    parts = []
    for case, one in found.items():
        alone = one[LIGHTNING]["ratio"].median
        beyond = one[OURS]["beyond Lightning"].median * 1e3
        parts.append(f"{case} {alone:.3f} and {beyond:+.2f} ms")
    why = [UNSURE] if met is None else []
    if above:
        split = "the bare step in Lightning's loop, and ours beyond that"
        why += [ADDED, f"{split}: {'; '.join(parts)}"]
    text = "within 3 % of the bare loop when the device is the limit"
    measured = f"{listed(ratios)}; medians and their 95 % intervals"
    record.target(text, measured, met, "; ".join(why))


def judge_memory(record: Record, taken: Mapping[str, tuple[float, float]]) -> None:
    rows, ratios = [], {}
    for case, (ours, bare) in taken.items():
        ratios[case] = ours / bare
        rows.append([case, mebibytes(bare), mebibytes(ours), f"{(ours - bare) / 2**10:.1f}"])
    title = "Memory that tensors take from the allocator in a step, and give back"
    record.table(title, ["recipe", "bare loop, MiB", "Roux, MiB", "more, KiB"], rows)
    met = max(ratios.values()) <= KEPT
    text = ", ".join(f"{case} {ratio:.3f}" for case, ratio in ratios.items())
    measured = f"bytes allocated in a step over the bare loop's: {text}"
    target = "nothing allocated per step that could be kept"
    record.target(target, measured, met, "" if met else MASKS)


if __name__ == "__main__":
    CLI.start(measure)
