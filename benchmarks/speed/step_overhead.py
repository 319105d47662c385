"""What a step of ours costs on the host beside a bare hand-written loop.

    python benchmarks/speed/step_overhead.py
    python benchmarks/speed/step_overhead.py --recipe fixmatch --regime host --json out.json

First both must give bit-equal losses for 20 steps, or the script stops and names the step. Then all
variants run in one process, ten steps each in turn, and a last, instrumented race says where the
time goes. The README tells the rules, `cases.py` what is run.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.clock import BLOCK, LIGHTNING, Clock, Sections, Spread, race, steady_memory
from benchmarks.ours import fit, prepared
from benchmarks.record import Record, mebibytes
from benchmarks.speed.bare import Bare, BareLightning, Batches
from benchmarks.speed.overhead_targets import judge
from benchmarks.speed.step_cases import CASES, REGIMES, overrides_of, pairs
from recipes.runs.run import quieten

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


class Bench:
    """The variants of one case in one regime: each runs `clock.total` steps from the same start."""

    def __init__(self, case: str, regime: str, device: str, folder: Path):
        self.case, self.regime, self.device, self.folder, self.runs = (
            case,
            regime,
            device,
            folder,
            0,
        )
        self.overrides = overrides_of(case, regime, device, folder / "pictures")

    def _folder(self) -> Path:
        self.runs += 1
        (self.folder / f"{self.regime}_{self.case}_{self.runs}").mkdir()
        return self.folder / f"{self.regime}_{self.case}_{self.runs}"

    def bare(self, clock: Clock, free: bool = False, lightning: bool = False) -> list[Tensor]:
        """The hand-written loop, or its step in Lightning; returns the losses of the loop."""
        folder = self._folder()
        assembly = prepared(clock.total, folder, self.device, self.overrides)
        loop = CASES[self.case].bare(assembly, folder, self.device, free)
        if clock.sections is not None:
            for method, name in METHODS.items():
                if not (lightning and method == "backward"):
                    clock.sections.wrap(loop, method, name)
            clock.sections.wrap(loop.network, "features", "network")
        if lightning:
            self._in_lightning(loop, clock)
        else:
            loop.run(clock)
        return loop.losses

    def _in_lightning(self, loop: Bare, clock: Clock) -> None:
        quieten()
        module = BareLightning(loop, clock)
        if clock.sections is not None:
            clock.sections.wrap(module, "backward", "backward")
        trainer = pl.Trainer(
            accelerator=self.device,
            devices=1,
            max_steps=clock.total,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, train_dataloaders=Batches(loop))

    def ours(self, clock: Clock) -> list[Tensor]:
        folder = self._folder()
        return fit(prepared(clock.total, folder, self.device, self.overrides), folder, clock)

    def race(self, options: argparse.Namespace, sections: bool = False) -> dict[str, Clock]:
        """All variants once, block by block in turn."""
        regime = REGIMES[self.regime]
        steps, warmup = (
            options.steps or regime.steps,
            regime.warmup if options.warmup is None else options.warmup,
        )
        made = [Sections() if sections else None for _ in self.variants]
        clocks = [Clock(warmup, steps, device=self.device, sections=parts) for parts in made]
        race(list(self.variants.values()), clocks, options.threads)
        return dict(zip(self.variants, clocks, strict=True))

    @property
    def variants(self) -> dict[str, Callable[[Clock], list[Tensor]]]:
        found: dict[str, Callable[[Clock], list[Tensor]]] = {"bare loop": self.bare}
        if self.regime == "host":
            found["bare loop, free"] = lambda clock: self.bare(clock, free=True)
        found["bare step in Lightning"] = lambda clock: self.bare(clock, lightning=True)
        return found | {"Roux": self.ours}

    def allocated(self, run: Callable[[Clock], list[Tensor]]) -> float:
        """Bytes that tensors take from the allocator in one step: what ten further steps take, over
        ten."""
        taken = []
        for total in (BLOCK, 2 * BLOCK):
            with profile(
                activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
            ) as seen:
                run(Clock(0, total - 1, device=self.device))
            events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore
            taken.append(sum(max(event.nbytes(), 0) for event in events))
        return (taken[1] - taken[0]) / BLOCK


def first_difference(ours: list[Tensor], bare: list[Tensor]) -> int | None:
    """The first step whose losses are not equal to the last bit, None where all are."""
    if len(ours) != len(bare):
        return min(len(ours), len(bare))
    return next(
        (step for step, (a, b) in enumerate(zip(ours, bare, strict=True)) if not torch.equal(a, b)),
        None,
    )


def prove(bench: Bench) -> int | None:
    """Train both for 20 steps; the first step that differs."""
    return first_difference(*(run(Clock(0, PROOF - 1)) for run in (bench.ours, bench.bare)))


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, dict[str, Spread]]:
    """Times of all variants: medians of the blocks of each repeat."""
    times = {name: {key: Spread() for key in COLUMNS} for name in bench.variants}
    # on a GPU the host also waits; where files are read, the system works as well
    by = "cpu" if bench.device == "cpu" and bench.regime != "input" else "wall"
    for _ in range(options.repeats):
        clocks = bench.race(options)
        base, lightning = clocks["bare loop"].blocks, clocks["bare step in Lightning"].blocks
        for name, clock in clocks.items():
            together = list(zip(clock.blocks, base, lightning, strict=True))
            found = {
                "cpu": median(block["cpu"] for block in clock.blocks),
                "wall": median(block["wall"] for block in clock.blocks),
                "ratio": median(mine[by] / theirs[by] for mine, theirs, _ in together),
                "difference": median(mine[by] - theirs[by] for mine, theirs, _ in together),
                "beyond": median(mine[by] - theirs[by] for mine, _, theirs in together),
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


# -- what is told ----------------------------------------------------------------------------------
def times_rows(times: Mapping[str, Mapping[str, Spread]]) -> list[list[str]]:
    """ms a step; ratio and differences are medians over blocks that ran one after the other."""
    return [
        [
            name,
            *(
                spread.text(1, 2) if key == "ratio" else spread.text()
                for key, spread in spreads.items()
            ),
        ]
        for name, spreads in times.items()
    ]


def sections_rows(sections: dict[str, dict[str, float]]) -> list[list[str]]:
    """Wall ms a step by section, largest of ours first."""
    names = {section for column in sections.values() for section in column} - {"all"}
    ours = sections["Roux"]
    order = [*sorted(names, key=lambda name: -ours.get(name, 0.0)), "all"]
    return [
        [
            name,
            *(
                f"{column[name] * 1e3:.3f}" if name in column else ""
                for column in sections.values()
            ),
        ]
        for name in order
    ]


def run(record: Record, options: argparse.Namespace, folder: Path) -> int:
    """Prove, measure, tell. Returns the exit status."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for regime, case in pairs(options.recipe or list(CASES), options.regime or list(REGIMES)):
        bench = Bench(case, regime, options.device, folder)
        step = prove(bench)
        if step is not None:
            print(f"{case}, {regime}: losses differ first at step {step}", file=sys.stderr)
            return 1
        print(f"\n{case}, {regime}: losses of {PROOF} steps are bit-equal", flush=True)
        entry: dict[str, Any] = {"times": measure(bench, options)}
        head = ["ms a step, median (min..max)", *COLUMNS.values()]
        record.table(f"{case}: {REGIMES[regime].about}", head, times_rows(entry["times"]))
        if regime == "host" and options.device == "cpu":
            entry["allocated"] = (bench.allocated(bench.ours), bench.allocated(bench.bare))
        if regime == "host" and not options.brief:
            entry["sections"] = breakdown(bench, options)
            note = (
                f"{case}, host: the clocks cost time themselves; compare the columns with each "
                "other."
            )
            head = ["ms a step, by section", *entry["sections"]]
            record.table(f"{case}: where it goes", head, sections_rows(entry["sections"]), note)
        found[regime, case] = entry
    allocations(record, found)
    judge(record, found)
    for (regime, case), entry in found.items():
        rows = {
            name: {key: s.row() for key, s in spreads.items()}
            for name, spreads in entry["times"].items()
        }
        figures = {"bit_equal_steps": PROOF, **entry, "times": rows}
        record.figures.setdefault(regime, {})[case] = figures
    return 0


def allocations(record: Record, found: dict[tuple[str, str], dict[str, Any]]) -> None:
    rows = [
        [case, mebibytes(entry["allocated"][1]), mebibytes(entry["allocated"][0]),
         f"{(entry['allocated'][0] - entry['allocated'][1]) / 2**10:.1f}"]
        for (_, case), entry in found.items()
        if "allocated" in entry
    ]  # fmt: skip
    if rows:
        head = ["recipe", "bare loop, MiB", "Roux, MiB", "more, KiB"]
        record.table(
            "Memory that tensors take from the allocator in a step, and give back", head, rows
        )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe",
        action="append",
        choices=list(CASES),
        help="may be given several times; else all",
    )
    parser.add_argument(
        "--regime",
        action="append",
        choices=list(REGIMES),
        help="may be given several times; else all",
    )
    parser.add_argument(
        "--steps", type=int, help="steps in the window of a run; else as the regime has it"
    )
    parser.add_argument(
        "--warmup", type=int, help="steps before the window; else as the regime has it"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds over all variants")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch's operations")
    parser.add_argument(
        "--brief", action="store_true", help="without the race that says where time goes"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    steps, warmup = options.steps or BLOCK, options.warmup or 0
    if steps < BLOCK or steps % BLOCK or warmup % BLOCK or options.repeats < 1:
        parser.error(
            f"--steps and --warmup are multiples of {BLOCK}, --steps and --repeats positive"
        )
    return options


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 1 where losses differ."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    steady_memory()
    record = Record("speed/step_overhead", str(__doc__), device=options.device)
    with tempfile.TemporaryDirectory() as folder:
        status = run(record, options, Path(folder))
    if status == 0:
        record.write(options.json)
    return status


if __name__ == "__main__":
    sys.exit(main())
