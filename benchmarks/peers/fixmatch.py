"""The whole FixMatch step on a WRN-28-2, ours beside semilearn's own, beside a bare loop, beside
its arithmetic.

Three steps first: ours must be bit-equal to the bare loop, and semilearn's train_step, given the
bare loop's weights and views, must return its loss within 1e-5 at the first step and 1e-3 at the
third, or the script exits with status 1. Then all run in one process, one step each in turn, on
made pictures of 32×32 in memory. semilearn runs on our network: its own has other blocks (in two of
them the first normalisation is computed and not used). Its views come through Pillow in its loader,
or, in a row of its own, are given.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.clock import Clock, race
from benchmarks.command import Benchmark
from benchmarks.ours import Runs
from benchmarks.peers import semilearn_peer as peer
from benchmarks.record import Record
from benchmarks.speed.bare import BareFixMatch
from benchmarks.verdicts import Spread
from recipes.step import Embedded

PROOF, FIRST, LATER = 3, 1e-5, 1e-3
RATIO = 7
GIVEN, LOADED = "semilearn, views given", "semilearn, its loader"
FLOOR, APART = "forward, backward", "apart"
NOTE = (
    f"`{FLOOR}` is the network alone, one forward over all three inputs as the method asks for; "
    f"`{APART}` the same with the weak views forwarded without a graph, which is another method "
    "where normalisation is by batch."
)
MOMENTS = (
    "where a network normalises by the batch, the weak views' activations are part of everybody's "
    "moments and take part in the backward; without such layers the engine keeps no graph of them"
)
Run = Callable[[Clock], list[Tensor]]
CLI = Benchmark("peers/fixmatch", __doc__, ["semilearn", "torchvision"], warmup=1)
CLI.add("batch", {"cpu": 4, "cuda": 64}, "labeled pictures, 7 times that without", least=1)
CLI.add("network", "wrn_28_2", "name of the network")
CLI.add("steps", 5, "in the window of each", least=1)
CLI.add("workers", 0, "processes of semilearn's loader", least=0)
CLI.add("amp", False, "semilearn in mixed precision")
ALSO = ["trainer.precision=bf16-mixed"]
CLI.add_argument("--also", nargs="*", default=ALSO, metavar="OVERRIDES", help="ours once more with")


class Bench(Runs):
    """All variants, each from the same weights."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        made = ("data.source._target_=benchmarks.made.Made", "~data.source.test")
        sizes = (f"data.batch_size={options.batch}", f"data.unlabeled_ratio={RATIO}")
        evaluation = ("data.eval_batch_size=8", "data.val_fraction=0.005")
        data = ("data=cifar10", *made, f"network.name={options.network}", *sizes, *evaluation)
        super().__init__(options.device, folder, ("recipe=fixmatch", *data))
        self.options = options

    def made_bare(self, total: int) -> BareFixMatch:
        return BareFixMatch(*self.assembly(total), self.device)

    def bare(self, clock: Clock) -> list[Tensor]:
        loop = self.made_bare(clock.total)
        loop.run(clock)
        return loop.losses

    # -- semilearn ---------------------------------------------------------------------------------
    def semilearn(self, bare: BareFixMatch, total: int) -> Any:
        return peer.algorithm(bare, total, workers=self.options.workers, amp=self.options.amp)

    @staticmethod
    def batch(bare: BareFixMatch, step: int) -> dict[str, Tensor]:
        views = bare.views(bare.to_device(bare.batch(step)), step)
        return dict(zip(("x_lb", "y_lb", "x_ulb_w", "x_ulb_s"), views, strict=True))

    def semilearn_given(self, clock: Clock) -> list[Tensor]:
        bare = self.made_bare(clock.total)
        made = self.semilearn(bare, clock.total)
        return self.steps(made, clock, repeat(self.batch(bare, 0)))

    def semilearn_loaded(self, clock: Clock) -> list[Tensor]:
        made = self.semilearn(self.made_bare(clock.total), clock.total)
        return self.steps(made, clock, peer.loaded(made))

    def steps(self, made: Any, clock: Clock, batches: Iterator[Any]) -> list[Tensor]:
        losses = []
        for _ in range(clock.total):
            clock.mark()
            losses.append(peer.step(made, next(batches)))
        return losses

    # -- arithmetic --------------------------------------------------------------------------------
    def arithmetic(self, clock: Clock, together: bool) -> list[Tensor]:
        """Forward and backward alone, no views, loss or optimizer; apart: the weak views in a
        forward of their own that keeps no graph, which batch normalisation turns into another
        method."""
        bare = self.made_bare(clock.total)
        found = self.batch(bare, 0)
        weak = found["x_ulb_w"]
        taught = torch.cat([found["x_lb"], *([weak] if together else []), found["x_ulb_s"]])
        labels = torch.zeros(len(taught), dtype=torch.long, device=self.device)
        for _ in range(clock.total):
            clock.mark()
            if not together:
                with torch.no_grad():
                    bare.network(Embedded(weak))
            cross_entropy(bare.network(Embedded(taught)).logits["label"], labels).backward()
            bare.network.zero_grad()
        return []

    @property
    def variants(self) -> dict[str, Run]:
        found: dict[str, Run] = {"Roux": self.ours, "bare loop": self.bare}
        for override in self.options.also:
            more = override.split(",")
            found[f"Roux, {override}"] = lambda clock, more=more: self.ours(clock, *more)
        if peer.load() is not None:
            found |= {GIVEN: self.semilearn_given, LOADED: self.semilearn_loaded}
        found[FLOOR] = partial(self.arithmetic, together=True)
        found[APART] = partial(self.arithmetic, together=False)
        return found


def prove(bench: Bench) -> tuple[str | None, list[str]]:
    """What differs, None where nothing does; and a line on each proof."""
    ours, bare = bench.ours(Clock(0, PROOF - 1)), bench.bare(Clock(0, PROOF - 1))
    if not all(map(torch.equal, ours, bare)):
        return f"ours {ours} and the bare loop {bare} differ", []
    lines = [f"ours and the bare loop: losses of {PROOF} steps are bit-equal"]
    if peer.load() is None:
        return None, [*lines, "semilearn is not installed"]
    loop = bench.made_bare(PROOF)
    made = bench.semilearn(loop, PROOF)
    theirs = [peer.step(made, bench.batch(loop, step)) for step in range(PROOF)]
    off = [abs(a.item() - b.item()) for a, b in zip(bare, theirs, strict=True)]
    text = ", ".join(f"{difference:.1e}" for difference in off)
    first, later = (1.0, 1.0) if bench.options.amp else (FIRST, LATER)
    if off[0] > first or max(off) > later:
        return f"semilearn's losses differ from the bare loop's by {text}", lines
    equal = "semilearn's train_step on the same weights and views: losses differ by"
    return None, [*lines, f"{equal} {text}"]


def times_of(record: Record, bench: Bench, options: argparse.Namespace) -> None:
    found = {}
    for name in bench.variants:
        found[name] = Clock(options.warmup, options.steps, block=1, device=options.device)
    race(list(bench.variants.values()), list(found.values()), options.threads)
    images, mine = options.batch * (1 + 2 * RATIO), found["Roux"].blocks
    rows = []
    for name, clock in found.items():
        seconds = Spread([block["wall"] for block in clock.blocks])
        ratio = Spread([b["wall"] / a["wall"] for a, b in zip(mine, clock.blocks, strict=True)])
        rate = f"{images / seconds.median:.1f}"
        rows.append([name, seconds.text(1e3, 0), rate, ratio.text(1, 2)])
        record.figures[name] = {"seconds": seconds.values, "over_ours": ratio.row()}
    size = f"{options.batch} + 2 · {options.batch * RATIO} pictures of 32×32"
    head = ["who", "ms a step", "pictures a second", "over ours"]
    record.table(f"A step on {options.network}, {size}", head, rows, NOTE)


def judge(record: Record, options: argparse.Namespace) -> None:
    over = {name: figures["over_ours"]["median"] for name, figures in record.figures.items()}
    best = min((name for name in over if name.startswith("Roux")), key=over.__getitem__)
    if LOADED in over:
        ratio = over[LOADED] / over[best]
        measured = f"{ratio:.2f} ({best}), {over[LOADED]:.2f} (Roux)"
        text, on_gpu = "on a GPU at least 3 times as fast as semilearn", options.device == "cuda"
        met, why = (ratio >= 3, "") if on_gpu else (None, "measured on a CPU")
        record.target(text, measured, met, why)
    floor = f"{1 / over[FLOOR]:.3f} times forward and backward"
    record.target("the step over its arithmetic floor", floor, None, "no bound was set")
    share = f"{over[APART] / over[FLOOR]:.2f} of forward and backward"
    measured = f"not with batch normalisation; apart it would be {share}"
    record.target("the weak branch without gradient", measured, None, MOMENTS)


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        difference, lines = prove(bench)
        if difference is not None:
            return difference
        record.table("Equal first", ["what"], [[line] for line in lines])
        times_of(record, bench, options)
    judge(record, options)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
