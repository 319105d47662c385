"""What a step of ours costs on the host beside a bare hand-written loop: python benchmarks/step_overhead.py --help

First both must give bit-equal losses for 20 steps, or the script stops and names the step. Then all variants run in
one process, ten steps each in turn, and a last, instrumented race says where the time goes. The README tells the rules.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.bare import Bare, BareFixMatch, BareLightning, Batches
from benchmarks.ours import fit, prepared
from benchmarks.record import markdown
from benchmarks.timing import BLOCK, LIGHTNING, Clock, Sections, Spread, race, surroundings
from recipes.run import quieten

PROOF = 20  # steps whose losses must be bit-equal
BARE: dict[str, type[Bare]] = {"supervised": Bare, "fixmatch": BareFixMatch}
COLUMNS = {"cpu": "CPU", "wall": "wall", "ratio": "ratio", "difference": "difference"}
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
    """The variants of one recipe: each runs `clock.total` steps from the same start."""

    def __init__(self, recipe: str, device: str, folder: Path):
        self.recipe, self.device, self.folder, self.runs = recipe, device, folder, 0

    def _folder(self) -> Path:
        self.runs += 1
        (self.folder / str(self.runs)).mkdir()
        return self.folder / str(self.runs)

    def bare(self, clock: Clock, free: bool = False, lightning: bool = False) -> list[Tensor]:
        """The hand-written loop, or its step in Lightning; returns the losses of the loop."""
        folder = self._folder()
        loop = BARE[self.recipe](prepared(self.recipe, clock.total, folder, self.device), folder, self.device, free)
        if clock.sections is not None:
            for method, name in METHODS.items():
                if not (lightning and method == "backward"):
                    clock.sections.wrap(loop, method, name)
            clock.sections.wrap(loop.network, "forward", "network")
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
        return fit(prepared(self.recipe, clock.total, folder, self.device), folder, clock)

    def race(self, options: argparse.Namespace, sections: bool = False) -> dict[str, Clock]:
        """All variants once, block by block in turn."""
        made = [Sections() if sections else None for _ in self.variants]
        clocks = [Clock(options.warmup, options.steps, device=self.device, sections=parts) for parts in made]
        race(list(self.variants.values()), clocks, options.threads)
        return dict(zip(self.variants, clocks, strict=True))

    @property
    def variants(self) -> dict[str, Callable[[Clock], list[Tensor]]]:
        return {
            "bare loop": self.bare,
            "bare loop, free": lambda clock: self.bare(clock, free=True),
            "bare step in Lightning": lambda clock: self.bare(clock, lightning=True),
            "Roux": self.ours,
        }


def first_difference(ours: list[Tensor], bare: list[Tensor]) -> int | None:
    """The first step whose losses are not equal to the last bit, None where all are."""
    if len(ours) != len(bare):
        return min(len(ours), len(bare))
    return next((step for step, (a, b) in enumerate(zip(ours, bare, strict=True)) if not torch.equal(a, b)), None)


def prove(bench: Bench) -> int | None:
    """Train both for 20 steps; the first step that differs."""
    return first_difference(*(run(Clock(0, PROOF - 1)) for run in (bench.ours, bench.bare)))


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Times of all variants, and in a last race where they go."""
    times = {name: {key: Spread() for key in COLUMNS} for name in bench.variants}
    for _ in range(options.repeats):
        clocks = bench.race(options)
        base = clocks["bare loop"].blocks
        for name, clock in clocks.items():
            pairs = list(zip(clock.blocks, base, strict=True))
            by = "wall" if bench.device == "cuda" else "cpu"  # on a GPU the host also waits
            found = {
                "cpu": median(block["cpu"] for block in clock.blocks),
                "wall": median(block["wall"] for block in clock.blocks),
                "ratio": median(mine[by] / theirs[by] for mine, theirs in pairs),
                "difference": median(mine[by] - theirs[by] for mine, theirs in pairs),
            }
            for key, value in found.items():
                times[name][key].values.append(value)
    sections = {}
    for name, clock in bench.race(options, sections=True).items():
        whole = sum(block["wall"] for block in clock.blocks) / len(clock.blocks)
        rest = "loop" if name.startswith("bare loop") else LIGHTNING
        spent = {section: value for section, value in clock.spent.items() if section != LIGHTNING}
        sections[name] = spent | {rest: whole - sum(spent.values()), "all": whole}
    return {"times": times, "sections": sections}


# -- what is printed ---------------------------------------------------------------------------------------------------
def times_table(times: dict[str, dict[str, Spread]]) -> str:
    """ms a step; ratio and difference to the bare loop are medians over blocks that ran one after the other."""
    rows = [
        [name, *(spread.text(1, 2) if key == "ratio" else spread.text() for key, spread in spreads.items())]
        for name, spreads in times.items()
    ]
    return markdown(["ms a step, median (min..max)", *COLUMNS.values()], rows)


def sections_table(sections: dict[str, dict[str, float]]) -> str:
    """Wall ms a step by section, largest of ours first."""
    names = {section for column in sections.values() for section in column} - {"all"}
    ours = sections["Roux"]
    order = [*sorted(names, key=lambda name: -ours.get(name, 0.0)), "all"]
    rows = [
        [name, *(f"{column[name] * 1e3:.3f}" if name in column else "" for column in sections.values())]
        for name in order
    ]
    return markdown(["ms a step, by section", *sections], rows)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=[*BARE, "both"], default="both")
    parser.add_argument("--steps", type=int, default=300, help="steps in the window of a run")
    parser.add_argument("--warmup", type=int, default=30, help="steps before the window")
    parser.add_argument("--repeats", type=int, default=5, help="rounds over all variants")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch's operations")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    if options.steps < BLOCK or options.steps % BLOCK or options.warmup % BLOCK or options.repeats < 1:
        parser.error(f"--steps and --warmup are multiples of {BLOCK}, --steps and --repeats positive")
    return options


def main(argv: list[str] | None = None) -> int:
    """Prove, measure, print. Returns the exit status: 1 where losses differ."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    record: dict[str, Any] = {"surroundings": surroundings(options.device), "recipes": {}}
    print(", ".join(f"{key} {value}" for key, value in record["surroundings"].items()))
    for recipe in BARE if options.recipe == "both" else [options.recipe]:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(recipe, options.device, Path(folder))
            step = prove(bench)
            if step is not None:
                print(f"{recipe}: losses differ first at step {step}", file=sys.stderr)
                return 1
            print(f"\n{recipe}: losses of {PROOF} steps are bit-equal")
            found = measure(bench, options)
        print(f"\n{times_table(found['times'])}\n\n{sections_table(found['sections'])}", flush=True)
        rows = {name: {key: s.row() for key, s in spreads.items()} for name, spreads in found["times"].items()}
        record["recipes"][recipe] = {"bit_equal_steps": PROOF, "times": rows, "sections": found["sections"]}
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
