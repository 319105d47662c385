"""Metric losses, forward and backward, beside pytorch-metric-learning: time and peak memory by batch size and width.

Every loss of the family with a peer of the same mining, on unit vectors in classes of four. First both must give one
value and one gradient in float64, or the script stops and says what differs. The peer lists pairs or triplets by index;
it is left out where that takes gigabytes or minutes: its mask of all triplets is B³ bytes (1.1 GiB and 4.6 s at 1024),
and its lifted structure holds every positive pair against every negative one.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.contest import By, Times, contest, peak_bytes
from benchmarks.record import Record, mebibytes
from methods.metric_learning.lifted_structure import LiftedStructure
from methods.metric_learning.metric import MetricLoss
from methods.metric_learning.multi_similarity import MultiSimilarity
from methods.metric_learning.proxy_anchor import proxy_anchor
from methods.metric_learning.triplet import Triplet
from methods.metric_learning.xbm import XBM, Memory

try:
    from pytorch_metric_learning import distances, losses, miners, reducers
except ImportError:
    losses = None

PEER = "pytorch-metric-learning"
PER_CLASS, STORED = 4, 1024
TOLERANCE = 1e-8  # of value and gradient in float64, relative to the largest entry
FLOOR = (
    "at d = 512 both spend most of a step in matrix products, of which ours makes three and the peer four or five; at "
    "B = 128 both are bound by the host, ours by about 300 operator calls"
)
Loss = Callable[..., Tensor]  # of the embeddings, and the proxies where there are some


@dataclass
class Data:
    """x: [B, d] unit vectors, labels: [B], proxies: [C, d], half of them of classes that the batch lacks; a memory."""

    x: Tensor
    labels: Tensor
    proxies: Tensor
    stored: Tensor
    stored_labels: Tensor

    @classmethod
    def drawn(cls, rows: int, dim: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> "Data":
        source = torch.Generator().manual_seed(rows + dim)
        classes = rows // PER_CLASS
        centres = normalize(torch.randn(2 * classes, dim, generator=source, dtype=torch.float64), dim=1)

        def near(labels: Tensor) -> Tensor:
            noise = torch.randn(len(labels), dim, generator=source, dtype=torch.float64) / dim**0.5
            return normalize(centres[labels] + noise, dim=1).to(device, dtype)

        labels = torch.arange(rows)[torch.randperm(rows, generator=source)] // PER_CLASS
        stored = torch.randint(classes, (STORED,), generator=source)
        proxies = (centres + 0.1 * torch.randn(centres.shape, generator=source, dtype=torch.float64)).to(device, dtype)
        return cls(near(labels), labels.to(device), proxies, near(stored), stored.to(device))

    def inputs(self, proxies: bool) -> list[Tensor]:
        return [value.clone().requires_grad_() for value in ([self.x, self.proxies] if proxies else [self.x])]


def method(loss: MetricLoss) -> Callable[[Data], Loss]:
    return lambda data: lambda x: loss.loss(x, data.labels, "label", None)[0]  # type: ignore[arg-type]


def with_memory(data: Data) -> Loss:
    xbm = XBM(options={"epsilon": None}, size=STORED, dim=data.x.shape[1], start=0)
    memory = Memory(STORED, data.x.shape[1], 1).to(data.x)
    memory.labels = memory.labels.to(data.labels)
    memory.enqueue(data.stored, data.stored_labels[None])
    xbm.key = "xbm"
    recipe: Any = SimpleNamespace(
        method_modules={"xbm": memory}, trainer=SimpleNamespace(global_step=1), tasks={"label": None}
    )
    return lambda x: xbm.loss(x, data.labels, "label", recipe)[0]


def euclidean(power: int = 1) -> Any:
    return distances.LpDistance(power=power, normalize_embeddings=False)


def mined(loss: Callable[[], Any], miner: Callable[[], Any] | None = None) -> Callable[[Data], Loss]:
    def of(data: Data) -> Loss:
        value, choose = loss(), miner() if miner else None
        return lambda x: value(x, data.labels, choose(x, data.labels) if choose else None)

    return of


def their_proxies(data: Data) -> Loss:
    classes, dim = data.proxies.shape
    loss = losses.ProxyAnchorLoss(num_classes=classes, embedding_size=dim, margin=0.1, alpha=32).to(data.x)

    def call(x: Tensor, proxies: Tensor) -> Tensor:
        del loss.proxies
        loss.proxies = proxies
        return loss(x, data.labels)

    del loss._parameters["proxies"]
    loss.proxies = data.proxies
    loss.cast_types = lambda dtype, device: None
    return call


def their_memory(data: Data) -> Loss:
    loss = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    stored = {"ref_emb": data.stored, "ref_labels": data.stored_labels}
    return lambda x: loss(x, data.labels) + loss(x, data.labels, **stored)


def similarity() -> Any:
    return losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)


def lifted(name: str) -> Callable[[], Any]:
    return lambda: getattr(losses, name)(neg_margin=1, pos_margin=0, distance=euclidean())


@dataclass
class Pair:
    """Ours and the peer's loss of one data. most: batch size up to which the peer is tried."""

    ours: Callable[[Data], Loss]
    peer: Callable[[Data], Loss] | None = None
    most: int = 10**9
    proxies: bool = False


PAIRS = {
    "triplet, all": Pair(
        method(Triplet(0.2)), mined(lambda: losses.TripletMarginLoss(margin=0.2, distance=euclidean(2))), 512
    ),
    "triplet, batch hard": Pair(
        method(Triplet(0.3, "batch_hard", squared=False)),
        mined(
            lambda: losses.TripletMarginLoss(margin=0.3, distance=euclidean(), reducer=reducers.MeanReducer()),
            lambda: miners.BatchHardMiner(distance=euclidean()),
        ),
    ),
    "triplet, all semi-hard": Pair(
        method(Triplet(0.2, "semi_hard_all", squared=False)),
        mined(
            lambda: losses.TripletMarginLoss(margin=0.2, distance=euclidean()),
            lambda: miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=euclidean()),
        ),
        512,
    ),
    "triplet, semi-hard": Pair(method(Triplet(0.2, "semi_hard"))),
    "multi-similarity, mined": Pair(
        method(MultiSimilarity()), mined(similarity, lambda: miners.MultiSimilarityMiner(epsilon=0.1))
    ),
    "multi-similarity": Pair(method(MultiSimilarity(epsilon=None)), mined(similarity)),
    "proxy-anchor": Pair(
        lambda data: lambda x, proxies: proxy_anchor(x, data.labels, proxies, 32.0, 0.1), their_proxies, proxies=True
    ),
    "lifted structure": Pair(method(LiftedStructure()), mined(lifted("LiftedStructureLoss")), 128),
    "lifted structure, hard": Pair(method(LiftedStructure(variant="hard"))),
    "lifted structure, generalized": Pair(
        method(LiftedStructure(variant="generalized")), mined(lifted("GeneralizedLiftedStructureLoss"))
    ),
    "xbm, multi-similarity": Pair(with_memory, their_memory),
}


def difference(pair: Pair, data: Data) -> float:
    """The largest difference of value and gradients, in units of the largest entry; data in float64."""
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
    peaks: dict[str, int]

    def ratio(self, by: By) -> float | None:
        return self.times["ours"].ratio(self.times[PEER], by).row()["median"] if PEER in self.times else None

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
    return Row(name, rows, dim, times, {who: peak_bytes(one, options.device) for who, one in calls.items()})


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
    share = f"at B = {options.large} at most {worst:.2f} of one matrix [B, B] in float32, gradients included"
    record.target(text, share, worst <= 1)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, nargs="+", default=[128, 256, 512, 1024, 2048], help="batch sizes B")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512], help="widths d")
    parser.add_argument("--large", type=int, default=8192, help="B of ours alone, 0 for none")
    parser.add_argument("--losses", nargs="+", choices=list(PAIRS), default=list(PAIRS), metavar="LOSS")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.03, help="seconds of a block of calls")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if min(options.rows) < 2 * PER_CLASS or min(options.dims) < 1 or options.repeats < 1:
        parser.error(f"batches hold {2 * PER_CLASS} samples or more, widths and repeats are 1 or more")
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    record = Record("metric_losses", __doc__ or "", options.device, [PEER])
    by: By = "cpu" if options.device == "cpu" else "wall"
    found: list[Row] = []
    for dim in options.dims:
        for name in options.losses:
            for rows in options.rows:
                row = measured(name, rows, dim, options)
                if isinstance(row, float):
                    print(f"{name}, B = {rows}, d = {dim}: differs from the peer by {row:.1e} of the largest entry")
                    return 1
                found.append(row)
                print(*row.cells(by, why_not(name, rows)), sep=", ", flush=True)
    head = ["loss", "B", "d", "ours, ms", "peer, ms", "times as fast", "ours, MiB", "peer, MiB"]
    note = f"Equal in float64 to {TOLERANCE:.0e} of the largest entry, value and gradient, wherever both are there."
    record.table("Forward and backward", head, [row.cells(by, why_not(row.loss, row.rows)) for row in found], note)
    ratios = [ratio for row in found if (ratio := row.ratio(by)) is not None]
    record.figures["rows"] = [
        {"loss": row.loss, "B": row.rows, "d": row.dim, "peaks": row.peaks}
        | {who: times.of(by).row() for who, times in row.times.items()}
        for row in found
    ]
    if ratios:
        slower = [f"{row.loss} at B = {row.rows}, d = {row.dim}" for row in found if (row.ratio(by) or 1) < 1]
        span = f"{min(ratios):.1f} to {max(ratios):.0f} times as fast"
        record.target("none slower", span, not slower, why=", ".join(slower))
        fast = median(ratios) >= 5
        record.target("median at least 5 times as fast", f"{median(ratios):.1f} times", fast, "" if fast else FLOOR)
        less = sum(row.peaks["ours"] <= row.peaks[PEER] for row in found if PEER in row.peaks)
        more = [f"{row.loss} at B = {row.rows}, d = {row.dim}" for row in found if row.more_memory]
        record.target("in less memory", f"in {less} of {len(ratios)} settings", not more, ", ".join(more))
    if options.large:
        large(options, record, by)
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
