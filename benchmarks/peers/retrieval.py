"""Recall@K, MAP@R and R-precision of many embeddings, beside faiss and pytorch-metric-learning:
seconds and memory.

Each contender runs in a process of its own, so that its peak of resident memory is known, faiss and
all; they take turns. faiss searches a flat index of inner products and knows no metrics: its
ranking is scored by our functions. The calculator of pytorch-metric-learning searches with faiss
itself. All must give the same figures, or the script stops.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.clock import ROOT, Spread
from benchmarks.contest import profiled
from benchmarks.record import Record, mebibytes
from recipes.evaluation.retrieval import Retrieval, retrieval_scores

KS = [1, 2, 4, 8]
TOLERANCE = (
    2e-5  # of the mean of a metric: similarities that differ in their last bit may change places
)
NEEDS = {"ours": None, "faiss": "faiss", "pytorch-metric-learning": "pytorch_metric_learning"}
PEERS = ("faiss-cpu", "pytorch-metric-learning")


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
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import FaissKNN

    names = {
        "precision_at_1": "recall@1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map@r",
    }
    search = None
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        search = FaissKNN(index_init_fn=faiss.IndexFlatIP)
    calculator = AccuracyCalculator(
        tuple(names), k="max_bin_count", knn_func=search, device=x.device
    )
    return {names[name]: value for name, value in calculator.get_accuracy(x, labels).items()}


CONTENDERS: dict[str, Callable[[Tensor, Tensor], dict[str, float]]] = {
    "ours": ours,
    "faiss": with_faiss,
    "pytorch-metric-learning": with_calculator,
}


def alone(name: str, rows: int, options: argparse.Namespace) -> None:
    """What a process of its own does: print seconds, peak of resident memory beyond that before the
    call, figures; or the share of our time that matrix `products` take. What starts it stays small:
    a process inherits the peak of resident memory of the one that started it."""
    x, labels = drawn(rows, options.dim, options.per_class, options.device)
    if name == "products":
        print(json.dumps({name: profiled(lambda: ours(x, labels), calls=1)[0]}))
        return
    few = drawn(64, options.dim, 2, options.device)
    CONTENDERS[name](*few)  # imports and first allocations
    before = resident(anew=True)
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        start_bytes = torch.cuda.memory_allocated()
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    figures = CONTENDERS[name](x, labels)
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    after = resident()
    peak = torch.cuda.max_memory_allocated() - start_bytes if x.is_cuda else after - before
    print(json.dumps({**took, "peak": peak, "whole": after, "figures": figures}))


def resident(anew: bool = False) -> int:
    """The most bytes that this process had resident. anew: counted from now on, which only Linux
    can; elsewhere what made the data counts too."""
    here = Path("/proc/self")
    if not here.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
    if anew:
        (here / "clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+) kB", (here / "status").read_text())[1]) * 1024  # type: ignore[index]


def run(name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    settings = {"dim": options.dim, "per-class": options.per_class, "device": options.device}
    flags = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers.retrieval",
        "--alone",
        name,
        "--rows",
        str(rows),
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{name} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def apart(found: dict[str, list[dict[str, Any]]]) -> str | None:
    """Which figure differs from ours by more than the tolerance."""
    mine = found["ours"][0]["figures"]
    for name, results in found.items():
        for metric, value in results[0]["figures"].items():
            if not abs(value - mine[metric]) <= TOLERANCE:
                return f"{metric}: {name} says {value:.7f}, ours {mine[metric]:.7f}"
    return None


def trial(rows: int, options: argparse.Namespace, record: Record) -> str | None:
    """One size: all contenders in turn, their table. What differs, if anything does."""
    names = [name for name, module in NEEDS.items() if module is None or find_spec(module)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(options.repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(run(name, rows, options))
            print(f"{name}, {rows} rows: {found[name][-1]}", flush=True)
    if (fault := apart(found)) is not None:
        return fault
    by = "cpu" if options.device == "cpu" else "wall"
    table, mine = [], [result[by] for result in found["ours"]]
    for name in NEEDS:
        if name not in found:
            table.append([name, "not installed", "", "", "", ""])
            continue
        results = found[name]
        ratio = Spread([result[by] / own for result, own in zip(results, mine, strict=True)])
        peak, whole = (max(result[key] for result in results) for key in ("peak", "whole"))
        scores = " / ".join(f"{results[0]['figures'][key]:.4f}" for key in ("recall@1", "map@r"))
        times = Spread([result[by] for result in results]).text(1, 2)
        table.append([name, times, ratio.text(1, 2), mebibytes(peak), mebibytes(whole), scores])
    head = [
        "",
        "seconds",
        "ours is … times as fast",
        "beyond the data, MiB",
        "process, MiB",
        "Recall@1 / MAP@R",
    ]
    record.table(
        f"{rows} x {options.dim}, {options.per_class} a class, {options.repeats} runs each",
        head,
        table,
    )
    record.figures[str(rows)] = found
    judge(rows, found, by, record)
    return None


def judge(rows: int, found: dict[str, list[dict[str, Any]]], by: str, record: Record) -> None:
    for peer in [name for name in found if name != "ours"]:
        pairs = zip(found["ours"], found[peer], strict=True)
        ratio = Spread([theirs[by] / mine[by] for mine, theirs in pairs]).row()["median"]
        why = (
            ""
            if ratio >= 1
            else f"matrix products take {record.figures['products']:.0%} of ours, by the profile"
        )
        record.target(
            f"not slower than {peer}, {rows} rows", f"{ratio:.2f} times as fast", ratio >= 1, why
        )
    peak = max(result["peak"] for result in found["ours"])
    all_pairs = rows**2 * 4
    share = (
        f"{mebibytes(peak)} MiB beyond the data, {peak / all_pairs:.3f} of the matrix of all "
        "similarities"
    )
    record.target(f"bounded memory, {rows} rows", share, peak < 512 * 2**20)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, default=10_000, help="embeddings")
    parser.add_argument(
        "--whole", type=int, default=60_000, help="embeddings of a second, larger trial, 0 for none"
    )
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument(
        "--per-class",
        type=int,
        default=12,
        help="embeddings of a class; its size is the R of MAP@R",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", choices=[*CONTENDERS, "products"], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.per_class < 2 or options.rows < 64 or options.repeats < 1 or options.dim < 1:
        parser.error(
            "classes have 2 embeddings or more, there are 64 or more of them, and repeats are 1 or "
            "more"
        )
    if options.rows % options.per_class == 1 or options.whole % options.per_class == 1:
        parser.error(
            "the last class would have one embedding only, with nothing to find: choose another "
            "--per-class"
        )
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if options.alone:
        alone(options.alone, options.rows, options)
        return 0
    record = Record("peers/retrieval", __doc__ or "", options.device, PEERS)
    record.figures["products"] = run("products", options.rows, options)["products"]
    for rows in (options.rows, options.whole):
        if rows and (fault := trial(rows, options, record)) is not None:
            print(f"{rows} rows: {fault}")
            return 1
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
