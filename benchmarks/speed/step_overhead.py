"""What a step of ours costs on the host beside a bare hand-written loop.

    python benchmarks/speed/step_overhead.py
    python benchmarks/speed/step_overhead.py --recipe fixmatch --regime host --json out.json

First both must give bit-equal losses for 20 steps, or the script stops and names the step. Then all
variants run in one process, ten steps each in turn, and a last, instrumented race says where the
time goes. The README has the rules, `step_cases.py` what is run.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import pytorch_lightning as pl
from torch import Tensor, equal
from torch.profiler import ProfilerActivity, profile

from benchmarks.clock import BLOCK, LIGHTNING, Clock, Sections, race, steady_memory
from benchmarks.command import Benchmark
from benchmarks.contest import memory_events
from benchmarks.ours import Runs
from benchmarks.record import Record
from benchmarks.speed.bare import Bare, BareLightning, Batches
from benchmarks.speed.overhead_targets import Found, judge
from benchmarks.speed.step_cases import CASES, REGIMES, overrides_of, pairs
from benchmarks.table import mebibytes
from benchmarks.verdicts import Spread
from recipes.runs.run import quieten

Run = Callable[[Clock], list[Tensor]]
PROOF = 20  # steps whose losses must be bit-equal
COLUMNS = {
    "cpu": "CPU",
    "wall": "wall",
    "ratio": "ratio",
    "difference": "difference",
    "beyond": "beyond Lightning",
}
METHODS = {
    "batch": "loader",
    "views": "views",
    "forward": "forward: names, concatenation",
    "objective": "terms",
    "backward": "backward",
    "update": "optimizer",
    "average": "averaged weights",
    "log": "meters",
}
NOTE = "the clocks cost time themselves; compare the columns with each other."
AGAIN = "may be given several times; else all"
CLI = Benchmark("speed/step_overhead", __doc__, repeats=5)
CLI.add_argument("--recipe", action="append", choices=list(CASES), help=AGAIN)
CLI.add_argument("--regime", action="append", choices=list(REGIMES), help=AGAIN)
CLI.add("steps", None, "steps in the window of a run; else as the regime has it", type=int, least=1)
CLI.add("warmup", None, "steps before the window; else as the regime has it", type=int, least=0)
CLI.add("brief", False, "without the race that says where time goes")
CLI.rule(
    lambda options: not ((options.steps or 0) % BLOCK or (options.warmup or 0) % BLOCK),
    f"--steps and --warmup are multiples of {BLOCK}",
)


class Bench(Runs):
    """The variants of one case in one regime: each runs `clock.total` steps from the same start."""

    def __init__(self, case: str, regime: str, device: str, folder: Path):
        overrides = overrides_of(case, regime, device, folder / "pictures")
        super().__init__(device, folder / f"{regime}_{case}", overrides)
        self.case, self.regime = case, regime

    def bare(self, clock: Clock, free: bool = False, lightning: bool = False) -> list[Tensor]:
        """The hand-written loop, or its step in Lightning; returns the losses of the loop."""
        loop = CASES[self.case].bare(*self.assembly(clock.total), self.device, free)
        if clock.sections is not None:
            for method, name in METHODS.items():
                if not (lightning and method == "backward"):
                    clock.sections.wrap(loop, method, name)
            clock.sections.wrap(loop.network, "features", "network")
        if lightning:
            self.in_lightning(loop, clock)
        else:
            loop.run(clock)
        return loop.losses

    def in_lightning(self, loop: Bare, clock: Clock) -> None:
        quieten()
        module = BareLightning(loop, clock)
        if clock.sections is not None:
            clock.sections.wrap(module, "backward", "backward")
        off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        trainer = pl.Trainer(
            accelerator=self.device,
            devices=1,
            max_steps=clock.total,
            **dict.fromkeys(off, False),
        )
        trainer.fit(module, train_dataloaders=Batches(loop))

    def race(self, options: argparse.Namespace, sections: bool = False) -> dict[str, Clock]:
        """All variants once, block by block in turn."""
        regime = REGIMES[self.regime]
        steps = options.steps or regime.steps
        warmup = regime.warmup if options.warmup is None else options.warmup
        clocks = {}
        for name in self.variants:
            spent = Sections() if sections else None
            clocks[name] = Clock(warmup, steps, device=self.device, sections=spent)
        race(list(self.variants.values()), list(clocks.values()), options.threads)
        return clocks

    @property
    def variants(self) -> dict[str, Run]:
        found: dict[str, Run] = {"bare loop": self.bare}
        if self.regime == "host":
            found["bare loop, free"] = lambda clock: self.bare(clock, free=True)
        found["bare step in Lightning"] = lambda clock: self.bare(clock, lightning=True)
        return found | {"Roux": self.ours}

    def allocated(self, run: Run) -> float:
        """Bytes that tensors take from the allocator in one step: what ten further steps take, over
        ten."""
        taken = []
        settings: Any = {"activities": [ProfilerActivity.CPU], "profile_memory": True}
        for total in (BLOCK, 2 * BLOCK):
            with profile(**settings, acc_events=True) as seen:
                run(Clock(0, total - 1, device=self.device))
            taken.append(sum(max(event.nbytes(), 0) for event in memory_events(seen)))
        return (taken[1] - taken[0]) / BLOCK


def first_difference(ours: list[Tensor], bare: list[Tensor]) -> int | None:
    """The first step whose losses are not equal to the last bit, None where all are."""
    for step, (a, b) in enumerate(zip(ours, bare, strict=False)):
        if not equal(a, b):
            return step
    return None if len(ours) == len(bare) else min(len(ours), len(bare))


def times_of(bench: Bench, options: argparse.Namespace) -> dict[str, dict[str, Spread]]:
    """Times of all variants: medians of the blocks of each repeat."""
    times = {name: {key: Spread() for key in COLUMNS} for name in bench.variants}
    # on a GPU the host also waits; where files are read, the system works as well
    by = "cpu" if bench.device == "cpu" and bench.regime != "input" else "wall"
    for _ in range(options.repeats):
        clocks = bench.race(options)
        base, lightning = clocks["bare loop"].blocks, clocks["bare step in Lightning"].blocks
        for name, clock in clocks.items():
            with_base = list(zip(clock.blocks, base, strict=True))
            with_lightning = zip(clock.blocks, lightning, strict=True)
            found = {
                "cpu": median(block["cpu"] for block in clock.blocks),
                "wall": median(block["wall"] for block in clock.blocks),
                "ratio": median(mine[by] / theirs[by] for mine, theirs in with_base),
                "difference": median(mine[by] - theirs[by] for mine, theirs in with_base),
                "beyond": median(mine[by] - theirs[by] for mine, theirs in with_lightning),
            }
            for key, value in found.items():
                times[name][key].values.append(value)
    return times


def breakdown(bench: Bench, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds a step by variant and section, from a race with clocks around the sections."""
    sections = {}
    for name, clock in bench.race(options, sections=True).items():
        whole = sum(block["wall"] for block in clock.blocks) / len(clock.blocks)
        rest = "loop" if name.startswith("bare loop") else LIGHTNING
        spent = {section: value for section, value in clock.spent.items() if section != LIGHTNING}
        sections[name] = spent | {rest: whole - sum(spent.values()), "all": whole}
    return sections


def times_rows(times: Mapping[str, Mapping[str, Spread]]) -> list[list[str]]:
    """ms a step; ratio and differences are medians over blocks that ran one after the other."""
    rows = []
    for name, spreads in times.items():
        texts = {key: spread.text() for key, spread in spreads.items()}
        texts["ratio"] = spreads["ratio"].text(1, 2)
        rows.append([name, *texts.values()])
    return rows


def sections_rows(sections: dict[str, dict[str, float]]) -> list[list[str]]:
    """Wall ms a step by section, largest of ours first."""
    names = set().union(*sections.values()) - {"all"}
    ours, rows = sections["Roux"], []
    for name in [*sorted(names, key=lambda name: -ours.get(name, 0.0)), "all"]:
        columns = sections.values()
        cells = [f"{column[name] * 1e3:.3f}" if name in column else "" for column in columns]
        rows.append([name, *cells])
    return rows


def one_case(bench: Bench, record: Record, options: argparse.Namespace) -> dict[str, Any]:
    """Its times, what it allocates, and where the time goes."""
    entry: dict[str, Any] = {"times": times_of(bench, options)}
    head = ["ms a step, median (min..max)", *COLUMNS.values()]
    title = f"{bench.case}: {REGIMES[bench.regime].about}"
    record.table(title, head, times_rows(entry["times"]))
    if bench.regime == "host" and options.device == "cpu":
        entry["allocated"] = (bench.allocated(bench.ours), bench.allocated(bench.bare))
    if bench.regime == "host" and not options.brief:
        entry["sections"] = breakdown(bench, options)
        head = ["ms a step, by section", *entry["sections"]]
        rows = sections_rows(entry["sections"])
        record.table(f"{bench.case}: where it goes", head, rows, f"{bench.case}, host: {NOTE}")
    return entry


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    steady_memory()
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        for regime, case in pairs(options.recipe or list(CASES), options.regime or list(REGIMES)):
            bench = Bench(case, regime, options.device, Path(folder))
            step = first_difference(*(run(Clock(0, PROOF - 1)) for run in (bench.ours, bench.bare)))
            if step is not None:
                return f"{case}, {regime}: losses differ first at step {step}"
            print(f"\n{case}, {regime}: losses of {PROOF} steps are bit-equal", flush=True)
            found[regime, case] = one_case(bench, record, options)
    allocations(record, found)
    judge(record, found)
    for (regime, case), entry in found.items():
        times = {}
        for name, spreads in entry["times"].items():
            times[name] = {key: spread.row() for key, spread in spreads.items()}
        figures = {"bit_equal_steps": PROOF, **entry, "times": times}
        record.figures.setdefault(regime, {})[case] = figures
    return None


def allocations(record: Record, found: Found) -> None:
    rows = []
    for (_, case), entry in found.items():
        if "allocated" in entry:
            ours, bare = entry["allocated"]
            rows.append([case, mebibytes(bare), mebibytes(ours), f"{(ours - bare) / 2**10:.1f}"])
    if rows:
        title = "Memory that tensors take from the allocator in a step, and give back"
        record.table(title, ["recipe", "bare loop, MiB", "Roux, MiB", "more, KiB"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
