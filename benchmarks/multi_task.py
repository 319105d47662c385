"""Weightings from task gradients, a whole step: beside the plain summed step, torchjd and a loop of T backwards.

A step is forward, weights and backward of a small shared network with T linear heads; the optimizer, equal for all, is
left out. `rep` and `shared` are the two `grad_source` of ours. torchjd runs with its T gradients vectorised and one by
one; the loop, in the manner of LibMTL, flattens T whole backwards and solves with our functions. First all gradients
must agree: with the loop's, and with torchjd's at our weights, as its own solvers stop early (MGDA) or draw (PCGrad).
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import reduce
from operator import add
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contest import By, Times, contest, peak_bytes
from benchmarks.record import Record, mebibytes
from datamodules.randomness import Randomness
from methods.multi_task.mgda import MGDA, min_norm
from methods.multi_task.nash_mtl import NashMTL, bargain
from methods.multi_task.pcgrad import PCGrad, projected_weights
from methods.multi_task.weighting import GramWeighting
from recipes.criterion import Criterion
from recipes.networks.network import Network
from recipes.step import Embedded, Progress, Step

try:
    from torchjd import aggregation
    from torchjd.autojac import jac_to_grad, mtl_backward
except ImportError:
    aggregation = None

CLASSES, TOLERANCE = 10, 1e-4  # of the combined gradient, relative to its norm
METHODS: dict[str, Callable[[str], GramWeighting]] = {
    "mgda": lambda source: MGDA(grad_source=source),  # type: ignore[arg-type]
    "pcgrad": lambda source: PCGrad(grad_source=source),  # type: ignore[arg-type]
    "nash_mtl": lambda source: NashMTL(grad_source=source, max_norm=0.0),  # type: ignore[arg-type]
}


class Small(Network):
    """`mlp`: 512 numbers through two layers of 1024; `conv`: pictures 3 x 32 x 32 through three convolutions."""

    kind = "image"

    def __init__(self, name: str, tasks: list[str]):
        width = 256 if name == "mlp" else 128
        super().__init__(width, dict.fromkeys(tasks, CLASSES))
        self.shape = (512,) if name == "mlp" else (3, 32, 32)
        if name == "mlp":
            layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, width)]
        else:
            convolutions = [nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
            layers = [*convolutions, nn.Conv2d(64, width, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.backbone = nn.Sequential(*layers, nn.ReLU())

    def embed(self, view: Tensor) -> Embedded:
        return Embedded(view)

    def features(self, embedded: Embedded) -> Tensor:
        return self.backbone(embedded.x)  # type: ignore[no-any-return]

    def example(self) -> Embedded:
        return Embedded(torch.zeros(2, *self.shape))


class Bench:
    """One network, its batch, and everything that makes a step of it."""

    def __init__(self, network: str, method: str, tasks: int, rows: int, device: str):
        torch.manual_seed(0)
        self.tasks, self.method = [f"task{i}" for i in range(tasks)], method
        self.network = Small(network, self.tasks).to(device)
        self.x = torch.randn(rows, *self.network.shape, device=device)
        self.targets = {task: torch.randint(CLASSES, (rows,), device=device) for task in self.tasks}
        self.shared = list(self.network.backbone.parameters())
        self.heads = list(self.network.heads.parameters())
        self.position = 0

    def clear(self) -> None:
        for p in self.network.parameters():
            p.grad = None

    def losses(self) -> tuple[Tensor, list[Tensor]]:
        """Of the hand-written steps: features and the losses of the tasks."""
        self.clear()
        z = self.network.backbone(self.x)
        return z, [F.cross_entropy(self.network.heads[task](z), self.targets[task]) for task in self.tasks]

    def plain(self) -> None:
        self.network.gates = None
        reduce(add, self.losses()[1]).backward()

    def ours(self, source: str) -> Callable[[], Tensor]:
        """A step of ours without a Trainer around it; it returns the weights."""
        method, modules = METHODS[self.method](source), nn.ModuleDict()
        method.key = self.method
        recipe: Any = SimpleNamespace(
            network=self.network,
            tasks=dict.fromkeys(self.tasks),
            method_modules=modules,
            parameters=self.network.parameters,
        )
        method.build(recipe)
        modules.to(self.x.device)
        gates = self.network.gates

        def call() -> Tensor:
            self.clear()
            self.network.gates = gates
            assert gates is not None
            gates.reset()
            step = self.step()
            output = self.network(Embedded(self.x))
            step.representations.append(output.features)
            for task in self.tasks:
                step.term(task, F.cross_entropy(output.logits[task], self.targets[task], reduction="none"), task=task)
            step.losses = {name: term.reduced() for name, term in step.terms.items()}
            method.combine(step, recipe).backward()
            return modules[self.method].weights.clone()  # type: ignore[no-any-return, operator, union-attr]

        return call

    def step(self) -> Step:
        def no(*_: Any) -> Any:
            raise TypeError("these steps have no views")

        where = Randomness(0, self.position, device=self.x.device)
        return Step({}, where, no, no, Criterion([]), Progress(0, 1), tuple(self.tasks))

    def loop(self) -> None:
        """T whole backwards, each gradient flattened, then the weighted sum written back; heads keep their own."""
        self.network.gates = None
        _, losses = self.losses()
        rows = torch.zeros(len(losses), sum(p.numel() for p in self.shared), device=self.x.device)
        for row, loss in zip(rows, losses, strict=True):
            loss.backward(retain_graph=True)
            row.copy_(torch.cat([p.grad.flatten() for p in self.shared if p.grad is not None]))
            for p in self.shared:
                p.grad = None
        update = self.solved((rows @ rows.T).double()).to(rows) @ rows
        for p, part in zip(self.shared, update.split([p.numel() for p in self.shared]), strict=True):
            p.grad = part.view_as(p).clone()

    def solved(self, gram: Tensor) -> Tensor:
        if self.method == "mgda":
            return min_norm(gram)
        if self.method == "nash_mtl":
            return bargain(gram)
        draw = self.step().randomness.shared(f"{self.method}/order", len(gram))
        return projected_weights(gram, draw.uniform(len(gram)).argsort(1))

    def torchjd(self, chunk: int | None, aggregator: Any = None) -> Callable[[], None]:
        """chunk: gradients at a time, None for all; with 1 its Gram matrix is computed by tensors, to save memory."""
        aggregator = aggregator or theirs(self.method, len(self.tasks))
        by_tensor = {"optimize_gramian_computation": True} if chunk == 1 and self.method != "nash_mtl" else {}

        def call() -> None:
            self.network.gates = None
            z, losses = self.losses()
            mtl_backward(losses, features=z, parallel_chunk_size=chunk)
            jac_to_grad(self.shared, aggregator, **by_tensor)

        return call

    def gradients(self) -> Tensor:
        """Those of the last step, flat."""
        return torch.cat([p.grad.flatten() for p in self.network.parameters() if p.grad is not None])

    def contenders(self) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {"plain sum": self.plain, "ours, rep": self.ours("rep")}
        found |= {"ours, shared": self.ours("shared"), "loop of T backwards": self.loop}
        if aggregation is not None and theirs(self.method, len(self.tasks)) is not None:
            found |= {"torchjd, vectorised": self.torchjd(None), "torchjd, one by one": self.torchjd(1)}
        return found


def theirs(method: str, tasks: int) -> Any:
    """Their aggregator; None where what it needs is not installed."""
    if method != "nash_mtl":
        return {"mgda": aggregation.MGDA, "pcgrad": aggregation.PCGrad}[method]()
    try:
        return aggregation.NashMTL(n_tasks=tasks, max_norm=0.0)
    except ImportError:
        return None


def differences(bench: Bench) -> dict[str, float]:
    """By how much gradients differ from those of our `shared` step, relative to their norm."""
    weights = bench.ours("shared")()
    mine = bench.gradients()
    found = {}

    def against(name: str, call: Callable[[], Any]) -> None:
        call()
        found[name] = float((bench.gradients() - mine).norm() / mine.norm())

    against("the loop of T backwards", bench.loop)
    if aggregation is not None:
        against("torchjd at our weights", bench.torchjd(None, aggregation.Constant(weights)))
    if aggregation is not None and bench.method == "pcgrad" and len(bench.tasks) == 2:
        against("torchjd's PCGrad", bench.torchjd(1))
    weights = bench.ours("rep")()
    mine = bench.gradients()
    bench.network.gates = None
    _, losses = bench.losses()
    own = torch.autograd.grad(reduce(add, losses), bench.heads, retain_graph=True)
    update = torch.autograd.grad(reduce(add, [w * loss for w, loss in zip(weights, losses, strict=True)]), bench.shared)
    by = dict(zip([*bench.heads, *bench.shared], [*own, *update], strict=True))
    expected = torch.cat([by[p].flatten() for p in bench.network.parameters()])
    found["the weighted sum at the weights of rep"] = float((expected - mine).norm() / mine.norm())
    return found


def trial(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, Times], dict[str, int]]:
    calls = bench.contenders()
    times = contest(calls, options.repeats, warmup=1, least=options.least, device=options.device)
    peaks = {}
    for name, call in calls.items():
        bench.clear()  # gradients of the step before would count as memory given back
        peaks[name] = peak_bytes(call, options.device)
    return times, peaks


def rows_of(head: list[str], times: dict[str, Times], peaks: dict[str, int], by: By) -> list[list[str]]:
    return [
        [*head, name, one.of(by).text(digits=2), times["plain sum"].ratio(one, by).text(1, 2), mebibytes(peaks[name])]
        for name, one in times.items()
    ]


def judge(record: Record, found: list[tuple[str, dict[str, Times], dict[str, int]]], by: By) -> None:
    """The targets over all settings."""

    def ratio(times: dict[str, Times], name: str, over: str) -> float:
        return times[over].ratio(times[name], by).row()["median"]

    reps = {label: ratio(times, "ours, rep", "plain sum") for label, times, _ in found}
    worst = max(reps.values())
    over = ", ".join(f"{label}: {value:.2f}" for label, value in reps.items() if value > 1.1)
    span = f"{min(reps.values()):.2f} to {worst:.2f} times its time"
    record.target("`rep` within 10 % of the plain summed step", span, worst <= 1.1, over)
    jd = [(label, times, peaks) for label, times, peaks in found if "torchjd, vectorised" in times]
    if not jd:
        return
    kinds = ("torchjd, vectorised", "torchjd, one by one")
    speed = {label: min(ratio(times, name, "ours, shared") for name in kinds) for label, times, _ in jd}
    slower = ", ".join(f"{label}: {value:.2f}" for label, value in speed.items() if value < 1)
    span = f"{min(speed.values()):.2f} to {max(speed.values()):.2f} times as fast as the faster of its two ways"
    record.target("`shared` not slower than torchjd", span, min(speed.values()) >= 1, slower)
    for mine in ("rep", "shared"):
        share = {label: peaks[f"ours, {mine}"] / min(peaks[name] for name in kinds) for label, _, peaks in jd}
        more = ", ".join(f"{label}: {value:.2f}" for label, value in share.items() if value > 1)
        span = f"{min(share.values()):.2f} to {max(share.values()):.2f} of the peak of the leaner of its two ways"
        record.target(f"`{mine}` in less memory than torchjd", span, max(share.values()) <= 1, more)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--networks", nargs="+", choices=["mlp", "conv"], default=["mlp", "conv"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 10, 40])
    parser.add_argument("--rows", type=int, default=64, help="batch size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.05, help="seconds of a block of steps")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    if min(options.tasks) < 2 or options.rows < 1 or options.repeats < 1:
        parser.error("there are 2 tasks or more, and rows and repeats are 1 or more")
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    record = Record("multi_task", __doc__ or "", options.device, ["torchjd"])
    by: By = "cpu" if options.device == "cpu" else "wall"
    found, rows = [], []
    for network in options.networks:
        for method in options.methods:
            for tasks in options.tasks:
                label = f"{network} {method} T={tasks}"
                bench = Bench(network, method, tasks, options.rows, options.device)
                for other, apart in differences(bench).items():
                    if not apart <= TOLERANCE:
                        print(f"{label}: gradients differ from {other} by {apart:.1e} of their norm")
                        return 1
                times, peaks = trial(bench, options)
                found.append((label, times, peaks))
                rows += rows_of([network, method, str(tasks)], times, peaks, by)
                for row in rows[-len(times) :]:
                    print(*row, sep=", ", flush=True)
    head = ["network", "method", "T", "", "ms a step", "of the plain sum", "peak MiB"]
    note = f"Gradients agree to {TOLERANCE:.0e} of their norm, with torchjd at equal weights."
    record.table(f"Forward, weights and backward, {options.rows} samples", head, rows, note)
    record.figures["settings"] = {
        label: {name: {"peak": peaks[name], **one.of(by).row()} for name, one in times.items()}
        for label, times, peaks in found
    }
    judge(record, found, by)
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
