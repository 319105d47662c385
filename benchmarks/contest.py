"""Functions timed beside each other in turn, and the memory that one call takes at most.

    times = contest({"ours": ours, "peer": peer}, repeats=7)
    times["ours"].ratio(times["peer"])      # peer over ours: 3 means ours is faster

In every round each contender runs one block, in an order that rotates, so that a machine whose
speed drifts slows all of them alike; ratios are taken within a round. A block is as many calls as
last `least` seconds. On a GPU the device is waited for at both ends of a block and nowhere else.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.clock import By, Times, now
from benchmarks.table import mebibytes

Call = Callable[[], Any]


def contest(
    contenders: Mapping[str, Call],
    repeats: int = 7,
    warmup: int = 2,
    least: float = 0.05,
    device: str = "cpu",
) -> dict[str, Times]:
    """Time all contenders in turn. warmup: calls of each before anything is timed."""
    counts = {}
    for name, call in contenders.items():
        for _ in range(warmup):
            call()
        counts[name] = calls_for(call, least, device)
    times = {name: Times() for name in contenders}
    for turn in range(repeats):
        for name in rotated(list(contenders), turn):
            block(times[name], contenders[name], counts[name], device)
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


def beside(base: str, times: Mapping[str, Times], by: By, digits: int = 2) -> list[list[str]]:
    """A row for each contender: who, ms a call, over the base, peak in MiB."""
    rows = []
    for name, one in times.items():
        ratio = times[base].ratio(one, by).text(1, digits)
        rows.append([name, one.of(by).text(digits=digits), ratio, mebibytes(one.peak)])
    return rows


def rotated(names: list[str], turn: int) -> list[str]:
    """The order of a round."""
    first = turn % len(names)
    return names[first:] + names[:first]


def calls_for(call: Call, least: float, device: str) -> int:
    """How many calls last `least` seconds."""
    one = Times()
    block(one, call, 1, device)
    return max(1, round(least / max(one.wall[0], 1e-9)))


def block(times: Times, call: Call, count: int, device: str) -> None:
    begun = now(device)
    for _ in range(count):
        call()
    times.add(begun, now(device), count)


# -- memory ----------------------------------------------------------------------------------------
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
    held = most = 0
    for count in allocations(call):
        held += count
        most = max(most, held)
    return most


def allocations(call: Call) -> list[int]:
    """What torch's allocator gave and took back on the CPU during a call, in order, in bytes with
    their sign."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        call()
    events = seen.profiler.kineto_results.events()
    found = [event for event in events if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())]
