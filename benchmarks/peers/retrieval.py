"""Recall@K, MAP@R and R-precision of many embeddings, beside faiss and pytorch-metric-learning:
seconds and memory.

Each contender runs in a process of its own, so that its peak of resident memory is known, faiss and
all; they take turns. faiss searches a flat index of inner products and knows no metrics: its
ranking is scored by our functions. The calculator of pytorch-metric-learning searches with faiss
itself. All must give the same figures, or the script stops.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.command import Benchmark
from benchmarks.contest import rotated
from benchmarks.machine import ROOT
from benchmarks.record import Record
from benchmarks.table import mebibytes
from benchmarks.verdicts import Spread
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
CLI.add("rows", 10_000, "embeddings", least=64)
CLI.add("whole", 60_000, "embeddings of a second, larger trial, 0 for none", least=0)
CLI.add("dim", 512, "their width", least=1)
CLI.add("per_class", 12, "embeddings of a class; its size is the R of MAP@R", least=2)
CLI.add_argument("--alone", choices=list(NEEDS), help=argparse.SUPPRESS)
CLI.rule(
    lambda options: 1 not in (options.rows % options.per_class, options.whole % options.per_class),
    "the last class would have one embedding only, with nothing to find: change --per-class",
)
Found = dict[str, list[dict[str, Any]]]  # by contender, a result of every turn


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
    """Seconds, peak of resident memory beyond that before the call, and figures. The process that
    starts it stays small: a process inherits the peak of resident memory of its parent."""
    torch.set_num_threads(options.threads)
    x, labels = drawn(options.rows, options.dim, options.per_class, options.device)
    few = drawn(64, options.dim, 2, options.device)
    CONTENDERS[name](*few)  # imports and first allocations
    before = resident(anew=True)
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        start_bytes = torch.cuda.memory_allocated()
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    figures = CONTENDERS[name](x, labels)
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    after = resident()
    peak = torch.cuda.max_memory_allocated() - start_bytes if x.is_cuda else after - before
    return {**found, "peak": peak, "whole": after, "figures": figures}


def resident(anew: bool = False) -> int:
    """The most bytes that this process had resident. anew: counted from now on, which only Linux
    can; elsewhere what made the data counts too."""
    here = Path("/proc/self")
    if not here.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if anew:
        (here / "clear_refs").write_text("5")
    status = (here / "status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def run(name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peers.retrieval", "--alone", name]
    settings = {"rows": rows, "dim": options.dim, "per-class": options.per_class, "whole": 0}
    settings |= {"device": options.device, "threads": options.threads}
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{name} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# -- all of them -----------------------------------------------------------------------------------
def apart(found: Found) -> str | None:
    """Which figure differs from ours by more than the tolerance."""
    mine = found["ours"][0]["figures"]
    for name, results in found.items():
        for metric, value in results[0]["figures"].items():
            if not abs(value - mine[metric]) <= TOLERANCE:
                return f"{metric}: {name} says {value:.7f}, ours {mine[metric]:.7f}"
    return None


def trial(rows: int, options: argparse.Namespace, record: Record) -> str | None:
    """One size: all contenders in turn, their table. What differs, if anything does."""
    names = [name for name, modules in NEEDS.items() if all(map(find_spec, modules))]
    found: Found = {name: [] for name in names}
    for turn in range(options.repeats):
        for name in rotated(names, turn):
            found[name].append(run(name, rows, options))
            print(f"{name}, {rows} rows: {found[name][-1]}", flush=True)
    fault = apart(found)
    if fault is not None:
        return f"{rows} rows: {fault}"
    ratios = over_ours(found, options.by)
    table = []
    for name in NEEDS:
        if name not in found:
            table.append([name, "not installed", "", "", "", ""])
            continue
        results = found[name]
        times = Spread([result[options.by] for result in results]).text(1, 2)
        memory = [mebibytes(max(result[key] for result in results)) for key in ("peak", "whole")]
        scores = " / ".join(f"{results[0]['figures'][key]:.4f}" for key in ("recall@1", "map@r"))
        table.append([name, times, ratios[name].text(1, 2), *memory, scores])
    head = ["", "seconds", "ours is … times as fast", "beyond the data, MiB", "process, MiB"]
    size = f"{rows} x {options.dim}, {options.per_class} a class"
    head.append("Recall@1 / MAP@R")
    record.table(f"{size}, {options.repeats} runs each", head, table)
    record.figures[str(rows)] = found
    judge(rows, found, ratios, record)
    return None


def over_ours(found: Found, by: str) -> dict[str, Spread]:
    """How many times as long as ours each took, turn by turn."""
    ratios = {}
    for name, results in found.items():
        pairs = zip(results, found["ours"], strict=True)
        ratios[name] = Spread([theirs[by] / mine[by] for theirs, mine in pairs])
    return ratios


def judge(rows: int, found: Found, ratios: dict[str, Spread], record: Record) -> None:
    for peer in [name for name in found if name != "ours"]:
        ratio = ratios[peer].median
        text = f"not slower than {peer}, {rows} rows"
        record.target(text, f"{ratio:.2f} times as fast", ratio >= 1)
    peak = max(result["peak"] for result in found["ours"])
    share = f"{peak / (rows**2 * 4):.3f} of the matrix of all similarities"
    measured = f"{mebibytes(peak)} MiB beyond the data, {share}"
    record.target(f"bounded memory, {rows} rows", measured, peak < 512 * 2**20)


def measure(record: Record, options: argparse.Namespace) -> str | None:
    for rows in (options.rows, options.whole):
        fault = trial(rows, options, record) if rows else None
        if fault is not None:
            return fault
    return None


def main(argv: Sequence[str] | None = None) -> int:
    options = CLI.parse_args(argv)
    if options.alone:
        print(json.dumps(alone(options.alone, options)))
        return 0
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
