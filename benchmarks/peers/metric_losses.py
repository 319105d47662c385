"""Metric losses, forward and backward, beside pytorch-metric-learning: time and peak memory by
batch size and width.

Every loss of the family with a peer of the same mining, on unit vectors in classes of four. First
both must give one value and one gradient in float64, or the script stops and names the difference.
The peer lists pairs or triplets by index; it is left out where that takes gigabytes or minutes: its
mask of all triplets is B³ bytes (1.1 GiB and 4.6 s at 1024), and its lifted structure holds every
positive pair against every negative one.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch

from benchmarks.command import Benchmark
from benchmarks.contest import By, Times, contest, measured, peak_bytes
from benchmarks.peers.metric_pairs import PAIRS, PER_CLASS, Data, Loss, Pair, losses
from benchmarks.record import Record
from benchmarks.table import mebibytes

PEER = "pytorch-metric-learning"
TOLERANCE = 1e-8  # of value and gradient in float64, relative to the largest entry
FAST = 5  # times as fast is the target
EQUAL = (
    f"Equal in float64 to {TOLERANCE:.0e} of the largest entry, value and gradient, wherever both "
    "are there."
)
CLI = Benchmark("peers/metric_losses", __doc__, [PEER], repeats=5, warmup=1, least=0.03)
CLI.add("rows", [128, 256, 512, 1024, 2048], "batch sizes B", least=2 * PER_CLASS)
CLI.add("dims", [128, 512], "widths d", least=1)
CLI.add("large", 8192, "B of ours alone, 0 for none", least=0)
CLI.add("losses", list(PAIRS), "all by default", choices=list(PAIRS), metavar="LOSS")


def difference(pair: Pair, data: Data) -> float:
    """The largest difference of value and gradients, in units of the largest entry; data in
    float64."""
    found = []
    for make in (pair.ours, pair.peer):
        inputs = data.inputs(pair.proxies)
        value = make(data)(*inputs)  # type: ignore[misc]
        found.append([value.detach(), *torch.autograd.grad(value, inputs)])
    worst = 0.0
    for mine, theirs in zip(*found, strict=True):
        worst = max(worst, float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)))
    return worst


def call(make: Callable[[Data], Loss], data: Data, proxies: bool) -> Callable[[], None]:
    inputs, loss = data.inputs(proxies), make(data)
    return lambda: torch.autograd.backward(loss(*inputs), inputs=inputs)


@dataclass
class Row:
    loss: str
    rows: int
    dim: int
    times: dict[str, Times]

    @property
    def name(self) -> str:
        return f"{self.loss} at B = {self.rows}, d = {self.dim}"

    def ratio(self, by: By) -> float:
        return self.times["ours"].ratio(self.times[PEER], by).median

    @property
    def more_memory(self) -> bool:
        return self.times["ours"].peak > self.times[PEER].peak

    def cells(self, by: By) -> list[str]:
        times = [one.of(by).text(digits=2) for one in self.times.values()]
        memory = [mebibytes(one.peak) for one in self.times.values()]
        head = [self.loss, str(self.rows), str(self.dim)]
        if PEER not in self.times:
            return [*head, times[0], why_not(self.loss), "", memory[0], ""]
        return [*head, *times, self.times["ours"].ratio(self.times[PEER], by).text(1, 1), *memory]

    def figures(self, by: By) -> dict[str, object]:
        own = {"loss": self.loss, "B": self.rows, "d": self.dim}
        return own | {who: times.figures(by) for who, times in self.times.items()}


def one_row(name: str, rows: int, dim: int, options: argparse.Namespace) -> Row | float:
    """Times and peaks, or by how much the two differ."""
    pair = PAIRS[name]
    makes = {"ours": pair.ours}
    if losses is not None and pair.peer is not None and rows <= pair.most:
        apart = difference(pair, Data.drawn(rows, dim, options.device, torch.float64))
        if not apart <= TOLERANCE:
            return apart
        makes[PEER] = pair.peer
    data = Data.drawn(rows, dim, options.device)
    calls = {who: call(make, data, pair.proxies) for who, make in makes.items()}
    return Row(name, rows, dim, measured(calls, options))


def why_not(name: str) -> str:
    if PAIRS[name].peer is None:
        return "has none such"
    return "not installed" if losses is None else "left out"


def large(options: argparse.Namespace, record: Record) -> None:
    """Ours alone, once, at a batch of which one matrix of all pairs is large."""
    rows, matrix, worst = [], options.large**2 * 4, 0.0
    for name in options.losses:
        pair, data = PAIRS[name], Data.drawn(options.large, options.dims[0], options.device)
        one = call(pair.ours, data, pair.proxies)
        times = contest({"ours": one}, 1, warmup=0, least=0, device=options.device)["ours"]
        peak = peak_bytes(one, options.device)
        worst = max(worst, peak / matrix)
        seconds = f"{times.of(options.by).median:.2f}"
        rows.append([name, seconds, mebibytes(peak), f"{peak / matrix:.2f}"])
    head = ["loss", "s", "peak MiB", "of one matrix [B, B]"]
    record.table(f"B = {options.large}, d = {options.dims[0]}: ours", head, rows)
    record.figures["large"] = rows
    share = f"at most {worst:.2f} of one matrix [B, B] in float32, gradients included"
    text = "memory O(B²) or below, with blocks for larger B"
    record.target(text, f"at B = {options.large} {share}", worst <= 1)


def report(found: Sequence[Row], by: By, record: Record) -> None:
    head = ["loss", "B", "d", "ours, ms", "peer, ms", "times as fast", "ours, MiB", "peer, MiB"]
    record.table("Forward and backward", head, [row.cells(by) for row in found], EQUAL)
    record.figures["rows"] = [row.figures(by) for row in found]
    both = [row for row in found if PEER in row.times]
    if not both:
        return
    ratios = {row.name: row.ratio(by) for row in both}
    slower = [name for name, ratio in ratios.items() if ratio < 1]
    span = f"{min(ratios.values()):.1f} to {max(ratios.values()):.0f} times as fast"
    record.target("none slower", span, not slower, ", ".join(slower))
    middle = median(ratios.values())
    missed = [name for name, ratio in ratios.items() if ratio < FAST]
    why = "" if middle >= FAST else f"below in {len(missed)} settings: {', '.join(missed)}"
    text = f"median at least {FAST} times as fast"
    record.target(text, f"{middle:.1f} times", middle >= FAST, why)
    more = [row.name for row in both if row.more_memory]
    less = f"in {len(both) - len(more)} of {len(both)} settings"
    record.target("in less memory", less, not more, ", ".join(more))


def measure(record: Record, options: argparse.Namespace) -> str | None:
    found: list[Row] = []
    for dim in options.dims:
        for name in options.losses:
            for rows in options.rows:
                row = one_row(name, rows, dim, options)
                if isinstance(row, float):
                    where = f"{name}, B = {rows}, d = {dim}"
                    return f"{where}: differs from the peer by {row:.1e} of the largest entry"
                found.append(row)
                print(*row.cells(options.by), sep=", ", flush=True)
    report(found, options.by, record)
    if options.large:
        large(options, record)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
