"""Weightings from task gradients, a whole step: beside the plain summed step, torchjd and a loop of
T backwards.

A step is forward, weights and backward of a small shared network with T linear heads; the
optimizer, equal for all, is left out. `rep` and `shared` are the two `grad_source` of ours. torchjd
runs with its T gradients vectorised and one by one; the loop, in the manner of LibMTL, flattens T
whole backwards and solves with our functions. First all gradients must agree: with the loop's, and
with torchjd's at our weights, as its own solvers stop early (MGDA) or draw (PCGrad).
"""

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

from benchmarks.clock import By, Times
from benchmarks.command import Benchmark
from benchmarks.contest import beside, measured
from benchmarks.peers import task_steps
from benchmarks.peers.task_steps import METHODS, Bench
from benchmarks.record import Record
from benchmarks.verdicts import Spread, apart

TOLERANCE = 1e-4  # of the combined gradient, relative to its norm
THEIRS = ("torchjd, vectorised", "torchjd, one by one")
KEPT = (
    "a step keeps its logits to the end, for meters and methods, where the peers' loop lets them "
    "go with the losses"
)
AGREE = f"Gradients agree to {TOLERANCE:.0e} of their norm, with torchjd at equal weights."
Found = dict[str, dict[str, Times]]  # by setting
CLI = Benchmark("peers/multi_task", __doc__, ["torchjd"], repeats=5, warmup=1, least=0.05)
CLI.add("networks", ["mlp", "conv"], "both by default", choices=["mlp", "conv"])
CLI.add("methods", list(METHODS), "all by default", choices=list(METHODS))
CLI.add("tasks", [2, 4, 10, 40], "numbers of tasks", least=2)
CLI.add("rows", 64, "batch size", least=1)


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
        constant = task_steps.aggregation.Constant(weights)
        against("torchjd at our weights", bench.torchjd(None, constant))
        if bench.method == "pcgrad" and len(bench.tasks) == 2:
            against("torchjd's PCGrad", bench.torchjd(1))
    weights = bench.ours("rep")()
    mine = bench.gradients()
    against("the weighted sum at the weights of rep", lambda: bench.weighted(weights))
    return found


# -- targets ---------------------------------------------------------------------------------------
def judge(record: Record, found: Found, by: By) -> None:
    """The targets over all settings."""
    reps, shared = {}, {}
    for label, times in found.items():
        reps[label] = times["plain sum"].ratio(times["ours, rep"], by)
        if THEIRS[0] in times:
            ratios = [times[name].ratio(times["ours, shared"], by) for name in THEIRS]
            shared[label] = max(ratios, key=lambda ratio: ratio.median)
    text = "`rep` within 10 % of the plain summed step"
    target(record, text, "times its time", reps, 1.1)
    if not shared:
        return
    text, unit = "`shared` not slower than torchjd", "times the time of the faster of its two ways"
    target(record, text, unit, shared, 1.0)
    for mine in ("rep", "shared"):
        memory(record, mine, {label: found[label] for label in shared})


def memory(record: Record, mine: str, found: dict[str, dict[str, Times]]) -> None:
    share = {}
    for label, times in found.items():
        share[label] = times[f"ours, {mine}"].peak / min(times[name].peak for name in THEIRS)
    more = ", ".join(f"{label}: {value:.3f}" for label, value in share.items() if value > 1)
    low, high = min(share.values()), max(share.values())
    span = f"{low:.2f} to {high:.3f} of the peak of the leaner of its two ways"
    why = f"{more}; {KEPT}" if more else ""
    record.target(f"`{mine}` in less memory than torchjd", span, high <= 1, why)


def target(record: Record, text: str, unit: str, ratios: dict[str, Spread], most: float) -> None:
    """One verdict over all settings."""
    medians = [ratio.median for ratio in ratios.values()]
    above, met = apart(ratios, most)
    why = ", ".join(f"{label}: {ratios[label].interval_text()}" for label in above)
    record.target(text, f"{min(medians):.2f} to {max(medians):.2f} {unit}", met, why)


def measure(record: Record, options: argparse.Namespace) -> str | None:
    """All settings; nothing more is timed where gradients differ."""
    found: Found = {}
    rows = []
    for network, method, tasks in product(options.networks, options.methods, options.tasks):
        label = f"{network} {method} T={tasks}"
        bench = Bench(network, method, tasks, options.rows, options.device)
        for other, off in differences(bench).items():
            if not off <= TOLERANCE:
                return f"{label}: gradients differ from {other} by {off:.1e} of their norm"
        times = measured(bench.contenders(), options, bench.clear)
        bench.clear()
        found[label] = times
        for line in beside("plain sum", times, options.by):
            rows.append([network, method, str(tasks), *line])
            print(*rows[-1], sep=", ", flush=True)
    head = ["network", "method", "T", "", "ms a step", "of the plain sum", "peak MiB"]
    title = f"Forward, weights and backward, {options.rows} samples"
    record.table(title, head, rows, AGREE)
    judge(record, found, options.by)
    return None


if __name__ == "__main__":
    CLI.start(measure)
