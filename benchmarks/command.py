"""The command line and the frame that all benchmarks share.

CLI = Benchmark("peers/metric_losses", __doc__, peers=["pytorch-metric-learning"], repeats=5)
CLI.add("rows", [128, 256], "batch sizes B", least=8)
CLI.add("batch", {"cpu": 4, "cuda": 64}, "samples of a step", least=1)

if __name__ == "__main__":
    CLI.start(measure)      # measure(record, options) -> what differs, or None
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks.record import Record

Measure = Callable[[Record, argparse.Namespace], str | None]


class Command(argparse.ArgumentParser):
    """A wrong argument ends the program with status 2 and one line. place: ROOM/NAME of the file.
    about: its docstring."""

    def __init__(self, place: str, about: str | None):
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"{place}.py", description=about, formatter_class=plain)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; --help lists all arguments\n")


class Benchmark(Command):
    """With --device, --json and --threads; with --repeats, --warmup and --least where they have a
    default.

    peers: packages whose versions matter
    repeats: rounds over all variants
    warmup: calls of each before anything is timed
    least: seconds of a block of calls
    """

    def __init__(
        self,
        place: str,
        about: str | None,
        peers: Sequence[str] = (),
        repeats: int | None = None,
        warmup: int | None = None,
        least: float | None = None,
    ):
        super().__init__(place, about)
        self.place = place
        self.peers = peers
        self.by_device: dict[str, dict[str, Any]] = {}
        self.bounds: dict[str, float] = {}
        self.rules: list[tuple[Callable[[argparse.Namespace], bool], str]] = []
        self.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        self.add_argument("--json", type=Path, help="file for what is found")
        self.add("threads", 1, "threads of torch's operations", least=1)
        if repeats is not None:
            self.add("repeats", repeats, "rounds over all variants", least=1)
        if warmup is not None:
            self.add("warmup", warmup, "calls or steps of each before anything is timed", least=0)
        if least is not None:
            self.add("least", least, "seconds of a block of calls", least=0)

    def add(
        self, name: str, default: Any, about: str, least: float | None = None, **more: Any
    ) -> None:
        """An argument whose type is that of its default. default: a list for several values, a dict
        for one value per device."""
        example = default
        if isinstance(default, dict):
            self.by_device[name] = default
            example = default["cpu"]
            about = f"{about} ({default['cpu']} on the CPU, {default['cuda']} on a GPU)"
            default = None
        if isinstance(example, list):
            more["nargs"] = "+"
            example = example[0]
        if least is not None:
            self.bounds[name] = least
        flag = f"--{name.replace('_', '-')}"
        if example is False:
            self.add_argument(flag, action="store_true", help=about)
        else:
            self.add_argument(flag, default=default, help=about, type=type(example), **more)

    def rule(self, holds: Callable[[argparse.Namespace], bool], problem: str) -> None:
        """A rule for several arguments, and what is said where it does not hold."""
        self.rules.append((holds, problem))

    def parse_args(self, argv: Any = None, namespace: Any = None) -> Any:
        """`by` is added: which seconds count, those of the processor or those of the wall."""
        options = super().parse_args(argv, namespace)
        for name, values in self.by_device.items():
            if getattr(options, name) is None:
                setattr(options, name, values[options.device])
        for name, least in self.bounds.items():
            value = getattr(options, name)
            if min(value if isinstance(value, list) else [value]) < least:
                self.error(f"--{name.replace('_', '-')} is at least {least:g}")
        for holds, problem in self.rules:
            if not holds(options):
                self.error(problem)
        options.by = "cpu" if options.device == "cpu" else "wall"
        return options

    def run(self, measure: Measure, argv: Sequence[str] | None = None) -> int:
        """Measure and keep what was found. Returns the exit status: 1 where `measure` says in a
        line that two variants do not compute the same."""
        options = self.parse_args(argv)
        torch.set_num_threads(options.threads)
        record = Record(self.place, self.description or "", options.device, self.peers)
        difference = measure(record, options)
        if difference is not None:
            print(difference, file=sys.stderr)
            return 1
        record.write(options.json)
        return 0

    def start(self, measure: Measure) -> NoReturn:
        """The program itself."""
        sys.exit(self.run(measure))
