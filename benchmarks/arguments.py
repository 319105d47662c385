"""What the command lines of benchmarks have in common."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def parser(
    about: str | None, repeats: int | None = None, warmup: int | None = None
) -> argparse.ArgumentParser:
    """With --device, --json and --threads, and, where they have a default, --repeats and
    --warmup."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if repeats is not None:
        made.add_argument("--repeats", type=int, default=repeats)
    if warmup is not None:
        made.add_argument(
            "--warmup", type=int, default=warmup, help="calls of each before anything is timed"
        )
    made.add_argument("--threads", type=int, default=1, help="threads of torch's operations")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument("--json", type=Path, help="file for all figures")
    return made


def filled(
    options: argparse.Namespace, sizes: Mapping[str, Mapping[str, Any]]
) -> argparse.Namespace:
    """What was not asked for is as it suits the device."""
    for name, value in sizes[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options
