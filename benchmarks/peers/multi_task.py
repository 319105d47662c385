"""Weightings from task gradients, a whole step: beside the plain summed step, torchjd and a loop of
T backwards.

A step is forward, weights and backward of a small shared network with T linear heads; the
optimizer, equal for all, is left out. `rep` and `shared` are the two `grad_source` of ours. torchjd
runs with its T gradients vectorised and one by one; the loop, in the manner of LibMTL, flattens T
whole backwards and solves with our functions. First all gradients must agree: with the loop's, and
with torchjd's at our weights, as its own solvers stop early (MGDA) or draw (PCGrad).
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any
from unittest.mock import patch

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch
from torch import Tensor

from benchmarks.arguments import parser
from benchmarks.clock import Sections, Spread
from benchmarks.contest import By, Times, contest, peak_bytes
from benchmarks.peers import task_steps
from benchmarks.peers.task_steps import METHODS, Bench
from benchmarks.record import Record, mebibytes
from benchmarks.verdicts import apart, told
from methods.multi_task import branching, gram
from recipes.networks.network import Network

TOLERANCE = 1e-4  # of the combined gradient, relative to its norm
THEIRS = ("torchjd, vectorised", "torchjd, one by one")
KEPT = (
    "a step keeps its logits to the end, for meters and methods, where the peers' loop lets them "
    "go with the losses"
)
Found = tuple[Bench, dict[str, Times], dict[str, int]]


def differences(bench: Bench) -> dict[str, float]:
    """By how much gradients differ from those of our `shared` step, relative to their norm."""
    weights = bench.ours("shared")()
    mine = bench.gradients()
    found = {}

    def against(name: str, call: Callable[[], Any]) -> None:
        call()
        found[name] = float((bench.gradients() - mine).norm() / mine.norm())

    against("the loop of T backwards", bench.loop)
    if task_steps.aggregation is not None:
        against(
            "torchjd at our weights", bench.torchjd(None, task_steps.aggregation.Constant(weights))
        )
    if task_steps.aggregation is not None and bench.method == "pcgrad" and len(bench.tasks) == 2:
        against("torchjd's PCGrad", bench.torchjd(1))
    weights = bench.ours("rep")()
    mine = bench.gradients()
    bench.network.gates = None
    _, losses = bench.losses()
    own = torch.autograd.grad(reduce(add, losses), bench.heads, retain_graph=True)
    update = torch.autograd.grad(
        reduce(add, [w * loss for w, loss in zip(weights, losses, strict=True)]), bench.shared
    )
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


def rows_of(
    head: list[str], times: dict[str, Times], peaks: dict[str, int], by: By
) -> list[list[str]]:
    return [
        [
            *head,
            name,
            one.of(by).text(digits=2),
            times["plain sum"].ratio(one, by).text(1, 2),
            mebibytes(peaks[name]),
        ]
        for name, one in times.items()
    ]


# -- where the time goes ---------------------------------------------------------------------------
def spent(bench: Bench, source: str, steps: int = 10) -> dict[str, float]:
    """Milliseconds of our step by what it does, without those of parts that are named
    themselves."""
    sections = Sections()
    parts = [
        (Network, "forward", "forward"),
        (gram, "branching", "finding where tasks part"),
        (gram, "branches", "backward through the heads"),
        (gram.Jacobian, "__init__", "a backward a task through what is shared"),
        (gram, "gram", "products of gradients"),
        (METHODS[bench.method](source).__class__, "solve", "weights"),
        (gram, "weighted", "weighted sum"),
        (branching, "weighted", "weighted sum"),
        (Tensor, "backward", "the rest of the backward"),
    ]
    with ExitStack() as stack:
        for owner, name, what in parts:
            stack.enter_context(
                patch.object(owner, name, sections.timed(getattr(owner, name), what))
            )
        call = sections.timed(bench.ours(source), "losses, logging and calls in between")
        call()
        sections.spent.clear()
        for _ in range(steps):
            call()
    return {name: seconds / steps * 1e3 for name, seconds in sections.spent.items()}


def profiled(label: str, bench: Bench, source: str) -> str:
    """In a sentence; nothing on a GPU, where a section ends before its work does."""
    if bench.x.is_cuda:
        return ""
    shares = sorted(spent(bench, source).items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {value:.2f}" for name, value in shares)
    return f"{label}, of {sum(value for _, value in shares):.1f} ms a step in a profile: {parts}"


# -- targets ---------------------------------------------------------------------------------------
def judge(record: Record, found: dict[str, Found], by: By) -> None:
    """The targets over all settings."""
    reps = {
        label: times["plain sum"].ratio(times["ours, rep"], by)
        for label, (_, times, _) in found.items()
    }
    target(
        record,
        "`rep` within 10 % of the plain summed step",
        "times its time",
        reps,
        1.1,
        found,
        "rep",
    )
    jd = {label: one for label, one in found.items() if THEIRS[0] in one[1]}
    if not jd:
        return
    shared = {label: slowest([times[name].ratio(times["ours, shared"], by) for name in THEIRS])
              for label, (_, times, _) in jd.items()}  # fmt: skip
    times_said = "times the time of the faster of its two ways"
    target(record, "`shared` not slower than torchjd", times_said, shared, 1.0, found, "shared")
    for mine in ("rep", "shared"):
        share = {
            label: peaks[f"ours, {mine}"] / min(peaks[name] for name in THEIRS)
            for label, (_, _, peaks) in jd.items()
        }
        more = ", ".join(f"{label}: {value:.3f}" for label, value in share.items() if value > 1)
        more = f"{more}; {KEPT}" if more else ""
        span = (
            f"{min(share.values()):.2f} to {max(share.values()):.3f} of the peak of the leaner of "
            "its two ways"
        )
        record.target(f"`{mine}` in less memory than torchjd", span, max(share.values()) <= 1, more)


def slowest(ratios: list[Spread]) -> Spread:
    """Ours over theirs, against the way of theirs that is faster."""
    return max(ratios, key=lambda ratio: ratio.row()["median"])


def target(
    record: Record,
    text: str,
    said: str,
    ratios: dict[str, Spread],
    most: float,
    found: dict[str, Found],
    source: str,
) -> None:
    """One verdict over all settings, and the profile of the worst."""
    medians = {label: ratio.row()["median"] for label, ratio in ratios.items()}
    worst = max(medians, key=lambda label: medians[label])
    above, met = apart(ratios, most)
    why = ", ".join(f"{label}: {told(ratios[label])}" for label in above)
    if above:
        why = "; ".join(filter(None, [why, profiled(worst, found[worst][0], source)]))
    record.target(text, f"{min(medians.values()):.2f} to {medians[worst]:.2f} {said}", met, why)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    made = parser(__doc__, repeats=5)
    made.add_argument("--networks", nargs="+", choices=["mlp", "conv"], default=["mlp", "conv"])
    made.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    made.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 10, 40])
    made.add_argument("--rows", type=int, default=64, help="batch size")
    made.add_argument("--least", type=float, default=0.05, help="seconds of a block of steps")
    options = made.parse_args(argv)
    if min(options.tasks) < 2 or options.rows < 1 or options.repeats < 1:
        made.error("there are 2 tasks or more, and rows and repeats are 1 or more")
    return options


def measure(record: Record, options: argparse.Namespace, by: By) -> dict[str, Found] | None:
    """All settings by their names; None where gradients differ, and then nothing more is timed."""
    found: dict[str, Found] = {}
    rows = []
    for network in options.networks:
        for method in options.methods:
            for tasks in options.tasks:
                label = f"{network} {method} T={tasks}"
                bench = Bench(network, method, tasks, options.rows, options.device)
                for other, off in differences(bench).items():
                    if not off <= TOLERANCE:
                        print(f"{label}: gradients differ from {other} by {off:.1e} of their norm")
                        return None
                times, peaks = trial(bench, options)
                bench.clear()
                found[label] = bench, times, peaks
                rows += rows_of([network, method, str(tasks)], times, peaks, by)
                for row in rows[-len(times) :]:
                    print(*row, sep=", ", flush=True)
    head = ["network", "method", "T", "", "ms a step", "of the plain sum", "peak MiB"]
    note = f"Gradients agree to {TOLERANCE:.0e} of their norm, with torchjd at equal weights."
    record.table(f"Forward, weights and backward, {options.rows} samples", head, rows, note)
    return found


def main(argv: list[str] | None = None) -> int:
    """Prove, measure, print. Returns the exit status: 1 where gradients differ."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    record = Record("peers/multi_task", __doc__ or "", options.device, ["torchjd"])
    by: By = "cpu" if options.device == "cpu" else "wall"
    found = measure(record, options, by)
    if found is None:
        return 1
    record.figures["settings"] = {
        label: {name: {"peak": peaks[name], **one.of(by).row()} for name, one in times.items()}
        for label, (_, times, peaks) in found.items()
    }
    judge(record, found, by)
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
