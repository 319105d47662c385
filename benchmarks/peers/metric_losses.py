"""Metric losses, forward and backward, beside pytorch-metric-learning: time and peak memory by
batch size and width.

Every loss of the family with a peer of the same mining, on unit vectors in classes of four. First
both must give one value and one gradient in float64, or the script stops and names the difference.
Not here are ranked list, where the peer adds 1e-5 to its denominators and follows the gradient of
its weights, and n-pair, where it takes one pair of a class.
The peer lists pairs or triplets by index; it is left out where that takes gigabytes or minutes: its
mask of all triplets is B³ bytes (1.1 GiB and 4.6 s at 1024), and its lifted structure holds every
positive pair against every negative one.
"""

import argparse
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.clock import By, Times
from benchmarks.command import Benchmark
from benchmarks.contest import contest, measured, peak_bytes
from benchmarks.peers.metric_pairs import PAIRS, PER_CLASS, TOLERANCE, Data, Loss, Pair, losses
from benchmarks.record import Record
from benchmarks.table import mebibytes

PEER = "pytorch-metric-learning"
FAST = 5  # times as fast is the target
EQUAL = (
    f"Equal in float64 to {TOLERANCE:.0e} of the largest entry, value and gradient, wherever both "
    f"are there (histogram: {PAIRS['histogram'].apart:.0e})."
)
CLI = Benchmark("peers/metric_losses", __doc__, [PEER], repeats=5, warmup=1, least=0.03)
CLI.add("rows", [128, 256, 512, 1024, 2048], "batch sizes B", least=2 * PER_CLASS)
CLI.add("dims", [128, 512], "widths d", least=1)
CLI.add("large", 8192, "B of ours alone, 0 for none", least=0)
CLI.add("losses", list(PAIRS), "all by default", choices=list(PAIRS), metavar="LOSS")


class Setting(NamedTuple):
    loss: str
    B: int
    d: int

    @property
    def text(self) -> str:
        return f"{self.loss} at B = {self.B}, d = {self.d}"


def difference(pair: Pair, data: Data) -> float:
    """The largest difference of value and gradients, in units of the largest entry; data in
    float64."""
    found = []
    for make in (pair.ours, pair.peer):
        inputs = data.inputs(pair.proxies)
        value = make(data)(*inputs)
        found.append([value.detach(), *torch.autograd.grad(value, inputs)])
    worst = 0.0
    for mine, theirs in zip(*found, strict=True):
        worst = max(worst, float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)))
    return worst


def call(make: Callable[[Data], Loss], data: Data, proxies: bool) -> Callable[[], None]:
    inputs, loss = data.inputs(proxies), make(data)
    return lambda: torch.autograd.backward(loss(*inputs), inputs=inputs)


def one_setting(setting: Setting, options: argparse.Namespace) -> dict[str, Times] | float:
    """Times and peaks of both, or by how much the two differ."""
    name, rows, dim = setting
    pair = PAIRS[name]
    makes = {"ours": pair.ours}
    if losses is not None and rows <= pair.most:
        apart = difference(pair, Data.drawn(rows, dim, options.device, torch.float64))
        if not apart <= pair.apart:
            return apart
        makes[PEER] = pair.peer
    data = Data.drawn(rows, dim, options.device)
    calls = {who: call(make, data, pair.proxies) for who, make in makes.items()}
    return measured(calls, options)


def cells(setting: Setting, times: dict[str, Times], by: By) -> list[str]:
    head = [*map(str, setting)]
    spent = [one.of(by).text(digits=2) for one in times.values()]
    memory = [mebibytes(one.peak) for one in times.values()]
    if PEER not in times:
        why_not = "not installed" if losses is None else "left out"
        return [*head, *spent, why_not, "", *memory, ""]
    return [*head, *spent, times["ours"].ratio(times[PEER], by).text(1, 1), *memory]


def large(options: argparse.Namespace, record: Record) -> None:
    """Ours alone, once, at a batch of which one matrix of all pairs is large."""
    rows, matrix = [], options.large**2 * 4
    shares: dict[str, float] = {}
    for name in options.losses:
        pair, data = PAIRS[name], Data.drawn(options.large, options.dims[0], options.device)
        one = call(pair.ours, data, pair.proxies)
        times = contest({"ours": one}, 1, warmup=0, least=0, device=options.device)["ours"]
        peak = peak_bytes(one, options.device)
        shares[name] = peak / matrix
        seconds = f"{times.of(options.by).median:.2f}"
        rows.append([name, seconds, mebibytes(peak), f"{shares[name]:.2f}"])
    head = ["loss", "s", "peak MiB", "of one matrix [B, B]"]
    record.table(f"B = {options.large}, d = {options.dims[0]}: ours", head, rows)
    worst = max(shares.values())
    share = f"at most {worst:.2f} of one matrix [B, B] in float32, gradients included"
    text = "memory O(B²) or below, with blocks for larger B"
    heavy = [
        f"{name}, a matrix [B, C] of logits" if PAIRS[name].proxies else name
        for name in shares
        if shares[name] > 1
    ]
    record.target(text, f"at B = {options.large} {share}", worst <= 1, ", ".join(heavy))


def report(found: dict[Setting, dict[str, Times]], by: By, record: Record) -> None:
    head = ["loss", "B", "d", "ours, ms", "peer, ms", "times as fast", "ours, MiB", "peer, MiB"]
    rows = [cells(setting, times, by) for setting, times in found.items()]
    record.table("Forward and backward", head, rows, EQUAL)
    ratios, more = {}, []
    for setting, times in found.items():
        if PEER in times:
            ratios[setting.text] = times["ours"].ratio(times[PEER], by).median
            if times["ours"].peak > times[PEER].peak:
                more.append(setting.text)
    if not ratios:
        return
    slower = [name for name, ratio in ratios.items() if ratio < 1]
    span = f"{min(ratios.values()):.1f} to {max(ratios.values()):.0f} times as fast"
    record.target("none slower", span, not slower, ", ".join(slower))
    middle = median(ratios.values())
    missed = [name for name, ratio in ratios.items() if ratio < FAST]
    names = ", ".join(dict.fromkeys(name.partition(" at ")[0] for name in missed))
    why = "" if middle >= FAST else f"below in {len(missed)} settings, of {names}"
    text = f"median at least {FAST} times as fast"
    record.target(text, f"{middle:.1f} times", middle >= FAST, why)
    less = f"in {len(ratios) - len(more)} of {len(ratios)} settings"
    record.target("in less memory", less, not more, ", ".join(more))


def measure(record: Record, options: argparse.Namespace) -> str | None:
    found = {}
    settings = product(options.dims, options.losses, options.rows)
    for dim, name, rows in settings:
        setting = Setting(name, rows, dim)
        times = one_setting(setting, options)
        if isinstance(times, float):
            where = f"{name}, B = {rows}, d = {dim}"
            return f"{where}: differs from the peer by {times:.1e} of the largest entry"
        found[setting] = times
        print(*cells(setting, times, options.by), sep=", ", flush=True)
    report(found, options.by, record)
    if options.large:
        large(options, record)
    return None


if __name__ == "__main__":
    CLI.start(measure)
