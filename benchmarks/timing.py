"""Clocks for steps: stamps at the start of each, exclusive times of named sections, and what a machine is called."""

import gc
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch

LIGHTNING = "Lightning"  # the section of what is left over
ROOT = Path(__file__).resolve().parent.parent


class Clock:
    """Wall and CPU time at the start of every step.

    The window is the steps [warmup, warmup + steps): the start of the one after it ends it, so a run needs
    warmup + steps + 1 steps. On a GPU the device is waited for at both ends of the window and nowhere else.
    sections: what they spend in the window is kept as `spent`, seconds a step by name.
    """

    def __init__(self, warmup: int, steps: int, device: str = "cpu", sections: "Sections | None" = None):
        self.warmup, self.steps, self.device, self.sections = warmup, steps, device, sections
        self.spent: dict[str, float] = {}
        self.wall: list[float] = []
        self.cpu: list[float] = []

    @property
    def total(self) -> int:
        return self.warmup + self.steps + 1

    def mark(self) -> None:
        """Call at the start of a step."""
        opens, closes = len(self.wall) == self.warmup, len(self.wall) == self.warmup + self.steps
        if self.device == "cuda" and (opens or closes):
            torch.cuda.synchronize()
        if self.sections is not None and closes:
            self.spent = {name: seconds / self.steps for name, seconds in self.sections.spent.items()}
        if self.sections is not None and opens:
            self.sections.spent.clear()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def seconds(self, block: int) -> dict[str, float]:
        """Seconds a step in the window: `wall` and `cpu`, the mean over all steps, and `quiet`, wall time in the
        fastest `block` consecutive steps (block: the logging interval, so that each block logs once)."""
        first, last = self.warmup, self.warmup + self.steps
        blocks = [
            (self.wall[start + block] - self.wall[start]) / block for start in range(first, last - block + 1, block)
        ]
        return {
            "wall": (self.wall[last] - self.wall[first]) / self.steps,
            "cpu": (self.cpu[last] - self.cpu[first]) / self.steps,
            "quiet": min(blocks, default=(self.wall[last] - self.wall[first]) / self.steps),
        }


class Sections:
    """Time spent in named functions, without that of named functions which they call."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[float] = []  # of every section now open, the time that sections inside it took

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
    """The optimizer's step and the schedule, once the schedule is made; what the closure inside the step does not book
    on sections of its own is Lightning's."""
    step = sections.timed(optimizer.step, "optimizer")

    @wraps(optimizer.step)  # the schedule recognises a step that it knows by an attribute
    def timed_step(closure: Any = None) -> Any:
        return step(sections.timed(closure, LIGHTNING) if closure else None)

    optimizer.step = timed_step
    sections.wrap(optimizer, "zero_grad", "optimizer")
    sections.wrap(module, "lr_scheduler_step", "schedule")


@dataclass
class Spread:
    """Median, least and largest of the repeats."""

    values: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        return {"median": median(self.values), "min": min(self.values), "max": max(self.values)}

    def text(self, scale: float = 1e3, digits: int = 3) -> str:
        low, high = min(self.values) * scale, max(self.values) * scale
        return f"{median(self.values) * scale:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def rounds(variants: dict[str, Callable[[], dict[str, float]]], repeats: int) -> dict[str, dict[str, Spread]]:
    """Run all variants in turn, `repeats` times over: name -> measure -> its values, in the order of the rounds."""
    results: dict[str, dict[str, Spread]] = {name: defaultdict(Spread) for name in variants}
    for _ in range(repeats):
        for name, measure in variants.items():
            gc.collect()  # the last variant's litter is not this one's
            for key, value in measure().items():
                results[name][key].values.append(value)
    return results


def processor() -> str:
    """The CPU's name as Linux tells it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit that was measured, `+` behind it where tracked files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if git("status", "--porcelain", "-uno") else "")


def surroundings(device: str) -> dict[str, Any]:
    """Hardware, versions and commit: what a figure is worth nothing without."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "commit": commit(),
    }
