"""Clocks for steps that take turns, and exclusive times of named sections."""

import ctypes
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import pytorch_lightning as pl
import torch

LIGHTNING = "Lightning"  # the section of what is left over
BLOCK = 10  # steps between two turns: the logging interval, so that every block logs once
# M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX of malloc.h
ALLOCATOR = {-1: 2**31 - 1, -2: 2**26, -3: 2**25, -8: 1}


def steady_memory() -> None:
    """Let the C library's allocator keep what it has and share it between threads, where it is
    glibc's. Otherwise each thread has a heap of its own, gives large tensors back to the system
    after every step, and pays for fresh pages in the next, and not all alike: the same backward
    took 8 % longer in the second thread than in the first."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    for parameter, value in () if mallopt is None else ALLOCATOR.items():
        mallopt(parameter, value)


class Turns:
    """Lets several threads run one at a time, in a ring. On a busy machine speed drifts by a third
    within seconds, so whole runs in turn compare the machine with itself; blocks of a few steps in
    turn meet the same weather."""

    def __init__(self, players: int):
        self.gates = [threading.Semaphore(0) for _ in range(players)]
        self.failure: BaseException | None = None

    def pass_on(self, player: int) -> None:
        """Let the next one run, and wait for the turn to come back."""
        self.leave(player)
        self.wait(player)

    def leave(self, player: int) -> None:
        self.gates[(player + 1) % len(self.gates)].release()

    def wait(self, player: int) -> None:
        self.gates[player].acquire()
        if self.failure is not None:
            raise RuntimeError("another variant failed") from self.failure


class Clock:
    """Wall and CPU time of blocks of steps; between two blocks the turn goes round.

    A run has warmup + steps + 1 steps: the start of the last one ends the last block. On a GPU the
    device is waited for at both ends of a block and nowhere else. sections: what they spend after
    the warm-up is kept as `spent`, seconds a step by name.
    """

    def __init__(
        self,
        warmup: int,
        steps: int,
        block: int = BLOCK,
        device: str = "cpu",
        sections: "Sections | None" = None,
    ):
        self.warmup, self.steps, self.block = warmup, steps, block
        self.device, self.sections = device, sections
        self.spent: dict[str, float] = {}
        self.blocks: list[dict[str, float]] = []  # seconds a step
        self.between: Callable[[], None] = lambda: None
        self._marks, self._opened = 0, (0.0, 0.0)

    @property
    def total(self) -> int:
        return self.warmup + self.steps + 1

    def mark(self) -> None:
        """Call at the start of a step."""
        done, self._marks = self._marks - self.warmup, self._marks + 1
        if done % self.block and done != self.steps:
            return
        if done > 0:
            wall, cpu = (now - then for now, then in zip(self._now(), self._opened, strict=True))
            self.blocks.append({"wall": wall / self.block, "cpu": cpu / self.block})
        if done == self.steps and self.sections is not None:
            whole = self.sections.spent
            self.spent = {name: seconds / self.steps for name, seconds in whole.items()}
        self.between()
        if done == 0 and self.sections is not None:
            self.sections.spent.clear()
        self._opened = self._now()

    def _now(self) -> tuple[float, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def race(runs: Sequence[Callable[[Clock], Any]], clocks: Sequence[Clock], threads: int) -> None:
    """Run all, each in a thread, one at a time: they take turns block by block. All clocks count
    the same steps."""
    turns = Turns(len(runs))

    def play(player: int) -> None:
        turns.gates[player].acquire()
        try:
            torch.set_num_threads(threads)  # a setting of each thread
            clocks[player].between = partial(turns.pass_on, player)
            runs[player](clocks[player])
        except BaseException as error:
            turns.failure = turns.failure or error
        turns.leave(player)

    players = [threading.Thread(target=play, args=(player,)) for player in range(len(runs))]
    for player in players:
        player.start()
    turns.gates[0].release()
    for player in players:
        player.join()
    if turns.failure is not None:
        raise turns.failure


class Sections:
    """Time spent in named functions, without that of named functions which they call."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        # of every section now open, the time that sections inside it took
        self._open: list[float] = []

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """`function` under the clock; about half a microsecond a call."""

        @wraps(function)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            self._open.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - start
                self.spent[name] += whole - self._open.pop()
                if self._open:
                    self._open[-1] += whole

        return clocked

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Put a method of one object under the clock."""
        owner.__dict__[attribute] = self.timed(getattr(owner, attribute), name)

    def iterate(self, source: Iterator[Any], name: str) -> Iterator[Any]:
        """`source`, each `next` under the clock."""
        following = self.timed(lambda: next(source, None), name)
        while (item := following()) is not None:
            yield item


def time_optimizer(module: pl.LightningModule, optimizer: Any, sections: Sections) -> None:
    """The optimizer's step and the schedule, once the schedule is made; what the closure inside the
    step does not book on sections of its own is Lightning's."""
    step = sections.timed(optimizer.step, "optimizer")

    @wraps(optimizer.step)  # the schedule recognises a step that it knows by an attribute
    def timed_step(closure: Any = None) -> Any:
        return step(sections.timed(closure, LIGHTNING) if closure else None)

    optimizer.step = timed_step
    sections.wrap(optimizer, "zero_grad", "optimizer")
    sections.wrap(module, "lr_scheduler_step", "schedule")
