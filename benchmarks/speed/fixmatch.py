"""The whole FixMatch step on a WRN-28-2, ours beside a bare loop and beside its arithmetic.

Three steps first: ours must be bit-equal to the bare loop, or the script exits with status 1. Then
all run in one process, one step each in turn, on made pictures of 32×32 in memory. The arithmetic
is the network alone: one forward over all three inputs, as the method asks for, and one backward.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.clock import Clock, race
from benchmarks.command import Benchmark
from benchmarks.ours import Runs
from benchmarks.record import Record
from benchmarks.speed.bare import BareFixMatch
from recipes.step import Embedded

PROOF = 3  # steps whose losses must be bit-equal
RATIO = 7  # unlabeled pictures of a labeled one
HALF = "trainer.precision=bf16-mixed"
FLOOR = "forward, backward"
CLI = Benchmark("speed/fixmatch", __doc__, warmup=1)
CLI.add("batch", {"cpu": 4, "cuda": 64}, "labeled pictures, 7 times that without", least=1)
CLI.add("network", "wrn_28_2", "name of the network")
CLI.add("steps", 5, "in the window of each", least=1)


class Bench(Runs):
    """All variants, each from the same weights."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        overrides = (
            "recipe=fixmatch",
            "data=cifar10",
            "data.source._target_=benchmarks.made.Made",
            "~data.source.test",
            "data.eval_batch_size=8",
            "data.val_fraction=0.005",
            f"network.name={options.network}",
            f"data.batch_size={options.batch}",
            f"data.unlabeled_ratio={RATIO}",
        )
        super().__init__(options.device, folder, overrides)
        self.variants: dict[str, Callable[[Clock], list[Tensor]]] = {
            "Roux": self.ours,
            "bare loop": self.bare,
            f"Roux, {HALF}": lambda clock: self.ours(clock, HALF),
            FLOOR: self.arithmetic,
        }

    def bare(self, clock: Clock) -> list[Tensor]:
        loop = BareFixMatch(*self.assembly(clock.total), self.device)
        loop.run(clock)
        return loop.losses

    def arithmetic(self, clock: Clock) -> list[Tensor]:
        """Forward and backward alone, no views, loss or optimizer."""
        loop = BareFixMatch(*self.assembly(clock.total), self.device)
        labeled, _, weak, strong = loop.views(loop.to_device(loop.batch(0)), 0)
        x = torch.cat([labeled, weak, strong])
        labels = torch.zeros(len(x), dtype=torch.long, device=self.device)
        for _ in range(clock.total):
            clock.mark()
            cross_entropy(loop.network(Embedded(x)).logits["label"], labels).backward()
            loop.network.zero_grad()
        return []


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """Prove, measure, judge."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        ours, bare = bench.ours(Clock(0, PROOF - 1)), bench.bare(Clock(0, PROOF - 1))
        if not all(map(torch.equal, ours, bare)):
            return f"ours {ours} and the bare loop {bare} differ"
        settings = {"warmup": options.warmup, "steps": options.steps, "device": options.device}
        times = race(bench.variants, options.threads, block=1, **settings)
    images = options.batch * (1 + 2 * RATIO)
    rows = []
    for name, one in times.items():
        rate = f"{images / one.of().median:.1f}"
        rows.append([name, one.of().text(1e3, 0), rate, times["Roux"].ratio(one).text(1, 2)])
    size = f"{options.batch} + 2 · {options.batch * RATIO} pictures of 32×32"
    title = f"A step on {options.network}, {size}"
    head = ["who", "ms a step", "pictures a second", "over ours"]
    note = f"Losses of {PROOF} steps of ours and of the bare loop are bit-equal."
    record.table(title, head, rows, note)
    over = times[FLOOR].ratio(times["Roux"]).median
    floor = f"{over:.3f} times forward and backward"
    record.target("the step over its arithmetic floor", floor, None, "no bound was set")
    return None


if __name__ == "__main__":
    CLI.start(measure)
