"""Metric losses, forward and backward, beside pytorch-metric-learning: time and peak memory by
batch size and width.

Every loss of the family with a peer of the same mining, on unit vectors in classes of four. First
both must give one value and one gradient in float64, or the script stops and says what differs. The
peer lists pairs or triplets by index; it is left out where that takes gigabytes or minutes: its
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

from benchmarks.contest import By, Times, contest, peak_bytes, profiled
from benchmarks.peers.metric_pairs import PAIRS, PER_CLASS, Data, Loss, Pair, losses
from benchmarks.record import Record, mebibytes

PEER = "pytorch-metric-learning"
TOLERANCE = 1e-8  # of value and gradient in float64, relative to the largest entry
FAST = 5  # times as fast is the target


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
    """products, operators: of one call of ours, as `profiled` tells them."""

    loss: str
    rows: int
    dim: int
    times: dict[str, Times]
    peaks: dict[str, int]
    products: float
    operators: int

    @property
    def name(self) -> str:
        return f"{self.loss} at B = {self.rows}, d = {self.dim}"

    def ratio(self, by: By) -> float | None:
        return (
            self.times["ours"].ratio(self.times[PEER], by).row()["median"]
            if PEER in self.times
            else None
        )

    @property
    def more_memory(self) -> bool:
        return PEER in self.peaks and self.peaks["ours"] > self.peaks[PEER]

    def cells(self, by: By, why: str) -> list[str]:
        known = PEER in self.times
        times = [self.times[name].of(by).text(digits=2) for name in self.times]
        memory = [mebibytes(peak) for peak in self.peaks.values()]
        head = [self.loss, str(self.rows), str(self.dim)]
        if not known:
            return [*head, times[0], why, "", memory[0], ""]
        return [*head, *times, self.times["ours"].ratio(self.times[PEER], by).text(1, 1), *memory]


def measured(name: str, rows: int, dim: int, options: argparse.Namespace) -> Row | float:
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
    times = contest(calls, options.repeats, warmup=1, least=options.least, device=options.device)
    peaks = {who: peak_bytes(one, options.device) for who, one in calls.items()}
    return Row(name, rows, dim, times, peaks, *profiled(calls["ours"]))


def why_not(name: str, rows: int) -> str:
    if PAIRS[name].peer is None:
        return "has none such"
    return "not installed" if losses is None else "left out"


def large(options: argparse.Namespace, record: Record, by: By) -> None:
    """Ours alone, once, at a batch of which one matrix of all pairs is large."""
    rows, matrix, worst = [], options.large**2 * 4, 0.0
    for name in options.losses:
        pair, data = PAIRS[name], Data.drawn(options.large, options.dims[0], options.device)
        one = call(pair.ours, data, pair.proxies)
        took = contest({"ours": one}, 1, warmup=0, least=0, device=options.device)["ours"].of(by)
        peak = peak_bytes(one, options.device)
        worst = max(worst, peak / matrix)
        rows.append([name, f"{took.row()['median']:.2f}", mebibytes(peak), f"{peak / matrix:.2f}"])
    head = ["loss", "s", "peak MiB", "of one matrix [B, B]"]
    record.table(f"B = {options.large}, d = {options.dims[0]}: ours", head, rows)
    record.figures["large"] = rows
    text = "memory O(B²) or below, with blocks for larger B"
    share = (
        f"at B = {options.large} at most {worst:.2f} of one matrix [B, B] in float32, gradients "
        "included"
    )
    record.target(text, share, worst <= 1)


def report(found: Sequence[Row], by: By, record: Record) -> None:
    head = ["loss", "B", "d", "ours, ms", "peer, ms", "times as fast", "ours, MiB", "peer, MiB"]
    note = (
        f"Equal in float64 to {TOLERANCE:.0e} of the largest entry, value and gradient, wherever "
        "both are there."
    )
    record.table(
        "Forward and backward",
        head,
        [row.cells(by, why_not(row.loss, row.rows)) for row in found],
        note,
    )
    record.figures["rows"] = [
        {"loss": row.loss, "B": row.rows, "d": row.dim, "peaks": row.peaks}
        | {"products": row.products, "operators": row.operators}
        | {who: times.of(by).row() for who, times in row.times.items()}
        for row in found
    ]
    ratios = {row.name: ratio for row in found if (ratio := row.ratio(by)) is not None}
    if not ratios:
        return
    slower = [name for name, ratio in ratios.items() if ratio < 1]
    span = f"{min(ratios.values()):.1f} to {max(ratios.values()):.0f} times as fast"
    record.target("none slower", span, not slower, why=", ".join(slower))
    middle = median(ratios.values())
    missed = [row for row in found if (row.ratio(by) or FAST) < FAST]
    why = "" if middle >= FAST else spent_on(missed)
    record.target(
        f"median at least {FAST} times as fast", f"{middle:.1f} times", middle >= FAST, why
    )
    less = sum(row.peaks["ours"] <= row.peaks[PEER] for row in found if PEER in row.peaks)
    more = [row.name for row in found if row.more_memory]
    record.target(
        "in less memory", f"in {less} of {len(ratios)} settings", not more, ", ".join(more)
    )


def spent_on(missed: Sequence[Row]) -> str:
    """What ours spends its time on where it misses the target: by the profile, for small batches
    and for large ones."""
    said = []
    for dim in sorted({row.dim for row in missed}):
        for rows in sorted({row.rows for row in missed if row.dim == dim}):
            group = [row for row in missed if (row.rows, row.dim) == (rows, dim)]
            products = median(row.products for row in group)
            operators = median(row.operators for row in group)
            said.append(
                f"B = {rows}, d = {dim}: {products:.0%} in matrix products, {operators:.0f} "
                "operator calls"
            )
    return f"{len(missed)} settings are below; profiled, medians of a step of ours at " + "; ".join(
        said
    )


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[128, 256, 512, 1024, 2048], help="batch sizes B"
    )
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512], help="widths d")
    parser.add_argument("--large", type=int, default=8192, help="B of ours alone, 0 for none")
    parser.add_argument(
        "--losses", nargs="+", choices=list(PAIRS), default=list(PAIRS), metavar="LOSS"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.03, help="seconds of a block of calls")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if min(options.rows) < 2 * PER_CLASS or min(options.dims) < 1 or options.repeats < 1:
        parser.error(
            f"batches hold {2 * PER_CLASS} samples or more, widths and repeats are 1 or more"
        )
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    record = Record("peers/metric_losses", __doc__ or "", options.device, [PEER])
    by: By = "cpu" if options.device == "cpu" else "wall"
    found: list[Row] = []
    for dim in options.dims:
        for name in options.losses:
            for rows in options.rows:
                row = measured(name, rows, dim, options)
                if isinstance(row, float):
                    print(
                        f"{name}, B = {rows}, d = {dim}: differs from the peer by {row:.1e} of the "
                        "largest entry"
                    )
                    return 1
                found.append(row)
                print(*row.cells(by, why_not(name, rows)), sep=", ", flush=True)
    report(found, by, record)
    if options.large:
        large(options, record, by)
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
