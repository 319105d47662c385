"""Steps under torch's sync debug mode on a GPU: does any of them make the host wait for the device?

    python benchmarks/lab/sync.py                    # every method with its kinds of data
    python benchmarks/lab/sync.py --only fixmatch --only mgda

Each method trains some steps under the settings of the conformance trials. After the first two,
which compile, choose algorithms and fill caches, every operation of a step that synchronises is
noted with the line of ours that called it; the transfer at the end of a logging interval is
allowed. Exits with 1 where there are any, with 2 without a GPU.
"""

import argparse
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch

from benchmarks.command import Benchmark
from benchmarks.machine import ROOT
from benchmarks.record import Record
from recipes.engine.recipe import Recipe

FIRST, STEPS = 2, 6  # steps that may wait, steps in all
CLI = Benchmark("lab/sync", __doc__, devices=["cuda"])
ONLY = "a method; may be given several times"
CLI.add_argument("--only", action="append", help=ONLY)
CLI.add("precision", "auto", "of the runs")


class Watch:
    """Turns the debug mode on around steps, and keeps where it spoke."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}

    @contextmanager
    def over(self, recipe: Recipe) -> Iterator[None]:
        if recipe.trainer.global_step < FIRST:
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = self.note  # type: ignore[assignment]
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def note(self, message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchroniz" not in str(message):
            return
        stack = [f for f in traceback.extract_stack() if f.filename != __file__]
        ours = [f for f in stack if f.filename.startswith(str(ROOT))]
        place = "elsewhere"
        if ours:
            place = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}"
        self.found[place] = None

    def install(self) -> None:
        """Put every step of every recipe under watch, and its publishing not."""
        step, publish = Recipe.optimizer_step, Recipe.publish
        watch = self

        def watched(self: Recipe, *args: Any, **kwargs: Any) -> None:
            with watch.over(self):
                step(self, *args, **kwargs)

        def unwatched(self: Recipe, *args: Any) -> None:
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("default")
            publish(self, *args)
            torch.cuda.set_sync_debug_mode(mode)

        Recipe.optimizer_step, Recipe.publish = watched, unwatched  # type: ignore[method-assign,assignment]


def look(key: str, kind: str, watch: Watch, options: argparse.Namespace) -> list[str]:
    """Where a run with one method waited."""
    from tests.support.lab import trial
    from tests.support.tiny_runs import run_of

    changes = {
        "trainer.accelerator": "gpu",
        "trainer.precision": options.precision,
        "trainer.max_steps": STEPS,
        "trainer.val_every": STEPS,
        "trainer.log_every": 2,
    }
    watch.found.clear()
    trial(run_of(kind, key, **changes))
    return list(watch.found)


def measure(record: Record, options: argparse.Namespace) -> str | None:
    from tests.support.tiny_runs import method_and_kind

    watch = Watch()
    watch.install()
    pairs = [(k, kind) for k, kind in method_and_kind() if not options.only or k in options.only]
    rows, faults = [], []
    for key, kind in pairs:
        try:
            places = look(key, kind, watch, options)
        except Exception as error:  # one method that cannot run here must not hide the others
            faults.append(f"{key} on {kind} (failed)")
            rows.append([key, kind, f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"])
            continue
        faults += [f"{key} on {kind}"] if places else []
        rows.append([key, kind, ", ".join(places) or "nowhere"])
    record.table("Where a step waits for the device", ["method", "data", "waits at"], rows)
    free = f"{len(pairs) - len(faults)} of {len(pairs)} runs wait nowhere"
    text = "views, forward and optimizer without synchronisation"
    record.target(text, free, not faults, ", ".join(faults))
    record.write(options.json)
    return f"a step waits: {', '.join(faults)}" if faults else None


def main(argv: Sequence[str] | None = None) -> int:
    CLI.parse_args(argv)
    if not torch.cuda.is_available():
        print("lab/sync: there is no GPU here, and only a GPU is waited for", file=sys.stderr)
        return 2
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
