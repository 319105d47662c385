"""Functions timed beside each other in turn, and the memory that one call takes at most.

    times = contest({"ours": ours, "peer": peer}, repeats=7)
    times["ours"].ratio(times["peer"])      # peer over ours: 3 means ours is faster

In every round each contender runs one block, in an order that rotates, so that a machine whose
speed drifts slows all of them alike; ratios are taken within a round. A block is as many calls as
last `least` seconds. On a GPU the device is waited for at both ends of a block and nowhere else.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.table import mebibytes
from benchmarks.verdicts import Spread

Call = Callable[[], Any]
By = Literal["cpu", "wall"]


@dataclass
class Times:
    """Seconds a call in every round, by wall clock and by processor time. peak: bytes that one call
    takes at most."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    def of(self, by: By = "wall") -> Spread:
        return Spread(list(getattr(self, by)))

    def ratio(self, peer: "Times", by: By = "wall") -> Spread:
        """How many times as long the peer took, round by round."""
        pairs = zip(getattr(self, by), getattr(peer, by), strict=True)
        return Spread([theirs / mine for mine, theirs in pairs])

    def figures(self, by: By) -> dict[str, float]:
        return self.of(by).row() | {"peak": self.peak}


def beside(base: str, times: Mapping[str, Times], by: By, digits: int = 2) -> list[list[str]]:
    """A row for each contender: who, ms a call, over the base, peak in MiB."""
    rows = []
    for name, one in times.items():
        ratio = times[base].ratio(one, by).text(1, digits)
        rows.append([name, one.of(by).text(digits=digits), ratio, mebibytes(one.peak)])
    return rows


def contest(
    contenders: Mapping[str, Call],
    repeats: int = 7,
    warmup: int = 2,
    least: float = 0.05,
    device: str = "cpu",
) -> dict[str, Times]:
    """Time all contenders in turn. warmup: calls of each before anything is timed. Raises
    ValueError for fewer than one round."""
    if repeats < 1:
        raise ValueError(f"{repeats} rounds; expected at least one")
    counts = {name: calls_for(call, warmup, least, device) for name, call in contenders.items()}
    times = {name: Times() for name in contenders}
    for turn in range(repeats):
        for name in rotated(list(contenders), turn):
            wall, cpu = block(contenders[name], counts[name], device)
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    return times


def measured(
    contenders: Mapping[str, Call], options: argparse.Namespace, clear: Call = lambda: None
) -> dict[str, Times]:
    """Times in turn, then the peak of one call of each. clear: what to call before it, so that
    nothing is given back that an earlier call left."""
    settings = options.repeats, options.warmup, options.least, options.device
    times = contest(contenders, *settings)
    for name, call in contenders.items():
        clear()
        times[name].peak = peak_bytes(call, options.device)
    return times


def rotated(names: list[str], turn: int) -> list[str]:
    """The order of a round."""
    first = turn % len(names)
    return names[first:] + names[:first]


def calls_for(call: Call, warmup: int, least: float, device: str) -> int:
    """Warm up; how many calls last `least` seconds."""
    for _ in range(warmup):
        call()
    return max(1, round(least / max(block(call, 1, device)[0], 1e-9)))


def block(call: Call, count: int, device: str) -> tuple[float, float]:
    """Seconds a call, (wall, processor)."""
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    wait(device)
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(call: Call, device: str = "cpu") -> int:
    """The most that torch's tensors took during a call beyond what they took before it, in bytes.
    On the CPU summed up from the allocator's events, so that what the system keeps back does not
    count; memory of other libraries (NumPy, faiss) is not seen."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        call()
    held = most = 0
    for event in sorted(memory_events(seen), key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def memory_events(seen: profile) -> list[Any]:
    """What the allocator gave and took back, in bytes with their sign."""
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    return [event for event in events if event.name() == "[memory]"]
