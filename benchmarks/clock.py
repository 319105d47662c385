"""Clocks, and whole loops that take turns block by block, each in a thread of its own."""

import ctypes
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from benchmarks.verdicts import Spread

By = Literal["cpu", "wall"]
BLOCK = 10  # steps between two turns: the logging interval, so that every block logs once
# M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
ALLOCATOR = {-1: 2**31 - 1, -2: 2**26, -3: 2**25, -8: 1}


@dataclass
class Times:
    """Seconds a call or a step in every round, by wall clock and by processor time. peak: bytes
    that one call takes at most."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    def add(self, begun: tuple[float, float], ended: tuple[float, float], count: int) -> None:
        """`count` calls between two readings of `now`."""
        self.wall.append((ended[0] - begun[0]) / count)
        self.cpu.append((ended[1] - begun[1]) / count)

    def of(self, by: By = "wall") -> Spread:
        return Spread(list(getattr(self, by)))

    def ratio(self, peer: "Times", by: By = "wall") -> Spread:
        """How many times as long the peer took, round by round."""
        pairs = zip(getattr(self, by), getattr(peer, by), strict=True)
        return Spread([theirs / mine for mine, theirs in pairs])

    def beyond(self, other: "Times", by: By = "wall") -> Spread:
        """How much longer this took than the other, round by round."""
        pairs = zip(getattr(self, by), getattr(other, by), strict=True)
        return Spread([mine - theirs for mine, theirs in pairs])


def now(device: str) -> tuple[float, float]:
    """(wall clock, processor time), once the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


class Clock:
    """Times of blocks of steps; between two blocks the turn goes round.

    A run has warmup + steps + 1 steps: the start of the last one ends the last block. On a GPU the
    device is waited for at both ends of a block and nowhere else.
    """

    def __init__(self, warmup: int, steps: int, block: int = BLOCK, device: str = "cpu"):
        self.warmup = warmup
        self.steps = steps
        self.block = block
        self.device = device
        self.total = warmup + steps + 1
        self.times = Times()
        self.between: Callable[[], None] = lambda: None
        self._marks = 0
        self._begun = (0.0, 0.0)

    def mark(self) -> None:
        """Call at the start of a step."""
        done = self._marks - self.warmup
        self._marks += 1
        if done % self.block and done != self.steps:
            return
        if done > 0:
            self.times.add(self._begun, now(self.device), self.block)
        self.between()
        self._begun = now(self.device)


def race(
    runs: Mapping[str, Callable[[Clock], Any]], threads: int, **settings: Any
) -> dict[str, Times]:
    """Run all, each in a thread, one at a time: they take turns block by block. On a busy machine
    speed drifts by a third within seconds; blocks of a few steps in turn meet the same weather.

    threads: of torch's operations. settings: of the clocks, which all count the same steps.
    """
    clocks = {name: Clock(**settings) for name in runs}
    gates = [threading.Semaphore(0) for _ in runs]
    failures: list[BaseException] = []

    def leave(place: int) -> None:
        gates[(place + 1) % len(gates)].release()

    def enter(place: int) -> None:
        gates[place].acquire()
        if failures:
            raise RuntimeError("another variant failed")

    def pass_on(place: int) -> None:
        leave(place)
        enter(place)

    def play(place: int, name: str) -> None:
        try:
            enter(place)
            torch.set_num_threads(threads)  # a setting of each thread
            clocks[name].between = lambda: pass_on(place)
            runs[name](clocks[name])
        except BaseException as error:
            failures.append(error)
        leave(place)

    players = [threading.Thread(target=play, args=pair) for pair in enumerate(runs)]
    for player in players:
        player.start()
    gates[0].release()
    for player in players:
        player.join()
    if failures:
        raise failures[0]
    return {name: clock.times for name, clock in clocks.items()}


def steady_memory() -> None:
    """Let the C library's allocator keep what it has and share it between threads, where it is
    glibc's. Otherwise each thread has a heap of its own, gives large tensors back to the system
    after every step, and pays for fresh pages in the next, and not all alike: the same backward
    took 8 % longer in the second thread than in the first."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    for parameter, value in () if mallopt is None else ALLOCATOR.items():
        mallopt(parameter, value)
