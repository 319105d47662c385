"""Recall@K, MAP@R and R-precision of many embeddings, beside faiss and pytorch-metric-learning:
seconds and memory.

Each contender runs in a process of its own, so that its peak of resident memory is known, faiss and
all; they take turns. faiss searches a flat index of inner products and knows no metrics: its
ranking is scored by our functions. The calculator of pytorch-metric-learning searches with faiss
itself. All must give the same figures, or the script stops.
"""

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.clock import By, Times, now
from benchmarks.command import Benchmark
from benchmarks.contest import rotated
from benchmarks.machine import last_line
from benchmarks.record import Record
from benchmarks.table import mebibytes
from recipes.engine.hardware import peak_memory
from recipes.evaluation.retrieval import Retrieval, retrieval_scores

KS = [1, 2, 4, 8]
# of the mean of a metric: similarities that differ in their last bit may change places
TOLERANCE = 2e-5
# the calculator of pytorch-metric-learning has no search of its own
CALCULATOR = ("pytorch_metric_learning", "faiss")
NEEDS = {"ours": (), "faiss": ("faiss",), "pytorch-metric-learning": CALCULATOR}
PRECISION = {
    "precision_at_1": "recall@1",
    "r_precision": "r_precision",
    "mean_average_precision_at_r": "map@r",
}
CLI = Benchmark("peers/retrieval", __doc__, ("faiss-cpu", "pytorch-metric-learning"), repeats=5)
CLI.add("rows", [10_000, 60_000], "embeddings, one trial each", least=64)
CLI.add("dim", 512, "their width", least=1)
CLI.add("per_class", 12, "embeddings of a class; its size is the R of MAP@R", least=2)
CLI.add_argument("--alone", choices=list(NEEDS), help=argparse.SUPPRESS)
CLI.rule(
    lambda options: all(rows % options.per_class != 1 for rows in options.rows),
    "the last class would have one embedding only, with nothing to find: change --per-class",
)
Figures = dict[str, dict[str, float]]  # by contender and metric


def drawn(rows: int, dim: int, per_class: int, device: str) -> tuple[Tensor, Tensor]:
    """Unit vectors [R, d] around the centres of their classes, each class of `per_class` rows, in
    random order."""
    source = torch.Generator().manual_seed(0)
    labels = (torch.arange(rows) // per_class)[torch.randperm(rows, generator=source)]
    centres = normalize(torch.randn(int(labels.max()) + 1, dim, generator=source), dim=1)
    x = centres[labels] + 4 * torch.randn(rows, dim, generator=source) / dim**0.5
    return normalize(x, dim=1).to(device), labels.to(device)


def ours(x: Tensor, labels: Tensor) -> dict[str, float]:
    values = Retrieval(ks=KS, nmi_restarts=0).scores(x, labels)
    return {name: float(value) for name, value in values.items() if name != "lone_queries"}


def with_faiss(x: Tensor, labels: Tensor) -> dict[str, float]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    others = labels.bincount()[labels] - 1
    depth = min(max(max(KS), int(others.max())), len(x) - 1)
    index: Any = faiss.IndexFlatIP(x.shape[1])
    if x.is_cuda:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(x.cpu().numpy())
    sums: dict[str, Tensor] = {}
    for rows in torch.arange(len(x)).split(8192):
        found = torch.from_numpy(index.search(x[rows].cpu().numpy(), depth + 1)[1])
        own = found == rows[:, None]
        own[:, -1] |= ~own.any(1)
        nearest = found[~own].view(len(rows), depth)
        relevant = labels.cpu()[nearest] == labels.cpu()[rows, None]
        for name, score in retrieval_scores(relevant, others.cpu()[rows], KS).items():
            sums[name] = sums.get(name, 0.0) + score.sum()
    return {name: float(value) / len(x) for name, value in sums.items()}


def with_calculator(x: Tensor, labels: Tensor) -> dict[str, float]:
    import faiss
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import FaissKNN

    faiss.omp_set_num_threads(torch.get_num_threads())
    search = FaissKNN(index_init_fn=faiss.IndexFlatIP)
    settings = {"k": "max_bin_count", "knn_func": search, "device": x.device}
    found = AccuracyCalculator(tuple(PRECISION), **settings).get_accuracy(x, labels)
    return {PRECISION[name]: value for name, value in found.items()}


CONTENDERS: dict[str, Callable[[Tensor, Tensor], dict[str, float]]] = {
    "ours": ours,
    "faiss": with_faiss,
    "pytorch-metric-learning": with_calculator,
}


# -- in the process of one contender ---------------------------------------------------------------
def alone(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, peak of memory beyond that before the call, and figures."""
    x, labels = drawn(options.rows[0], options.dim, options.per_class, options.device)
    few = drawn(64, options.dim, 2, options.device)
    CONTENDERS[name](*few)  # imports and first allocations
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    device = torch.device(options.device)
    before = peak_memory(device)
    times = Times()
    begun = now(options.device)
    figures = CONTENDERS[name](x, labels)
    times.add(begun, now(options.device), 1)
    after = peak_memory(device)
    return {"wall": times.wall[0], "cpu": times.cpu[0], "peak": after - before, "figures": figures}


def run(name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own."""
    command = ["-m", "benchmarks.peers.retrieval", "--alone", name]
    settings = {"rows": rows, "dim": options.dim, "per-class": options.per_class}
    settings |= {"device": options.device, "threads": options.threads}
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    return dict(json.loads(last_line(*command, threads=options.threads)))


# -- all of them -----------------------------------------------------------------------------------
def trial(rows: int, options: argparse.Namespace, record: Record) -> str | None:
    """One size: all contenders in turn, their table. What differs, if anything does."""
    names = [name for name, modules in NEEDS.items() if all(map(find_spec, modules))]
    times = {name: Times() for name in names}
    figures: Figures = {}
    for turn in range(options.repeats):
        for name in rotated(names, turn):
            found = run(name, rows, options)
            print(f"{name}, {rows} rows: {found}", flush=True)
            times[name].wall.append(found["wall"])
            times[name].cpu.append(found["cpu"])
            times[name].peak = max(times[name].peak, found["peak"])
            figures[name] = found["figures"]
    fault = difference(figures)
    if fault is not None:
        return f"{rows} rows: {fault}"
    table = [line(name, times, figures, options.by) for name in NEEDS]
    head = ["", "seconds", "ours is … times as fast", "beyond the data, MiB", "Recall@1 / MAP@R"]
    size = f"{rows} x {options.dim}, {options.per_class} a class"
    record.table(f"{size}, {options.repeats} runs each", head, table)
    judge(rows, times, options.by, record)
    return None


def difference(figures: Figures) -> str | None:
    """Which figure differs from ours by more than the tolerance."""
    mine = figures["ours"]
    for name, theirs in figures.items():
        for metric, value in theirs.items():
            if not abs(value - mine[metric]) <= TOLERANCE:
                return f"{metric}: {name} says {value:.7f}, ours {mine[metric]:.7f}"
    return None


def line(name: str, times: dict[str, Times], figures: Figures, by: By) -> list[str]:
    if name not in times:
        return [name, "not installed", "", "", ""]
    scores = " / ".join(f"{figures[name][key]:.4f}" for key in ("recall@1", "map@r"))
    ratio = times["ours"].ratio(times[name], by).text(1, 2)
    return [name, times[name].of(by).text(1, 2), ratio, mebibytes(times[name].peak), scores]


def judge(rows: int, times: dict[str, Times], by: By, record: Record) -> None:
    ours = times["ours"]
    for peer in [name for name in times if name != "ours"]:
        ratio = ours.ratio(times[peer], by).median
        text = f"not slower than {peer}, {rows} rows"
        record.target(text, f"{ratio:.2f} times as fast", ratio >= 1)
    share = f"{ours.peak / (rows**2 * 4):.3f} of the matrix of all similarities"
    measured = f"{mebibytes(ours.peak)} MiB beyond the data, {share}"
    record.target(f"bounded memory, {rows} rows", measured, ours.peak < 512 * 2**20)


def measure(record: Record, options: argparse.Namespace) -> str | None:
    if options.alone:
        print(json.dumps(alone(options.alone, options)))
        return None
    for rows in options.rows:
        fault = trial(rows, options, record)
        if fault is not None:
            return fault
    return None


if __name__ == "__main__":
    CLI.start(measure)
