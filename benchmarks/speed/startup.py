"""Seconds from the command to the first training step, and to the end of a short run.

Fresh processes, one after the other, run `recipe=fixmatch data=digits` for two steps, as train.py
does; files are in the system's cache. Each notes the time on the system's monotonic clock, from
before it was started. In turn with them a process that only says `import pytorch_lightning`.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks.command import Benchmark
from benchmarks.machine import last_line
from benchmarks.record import Record
from benchmarks.verdicts import Spread

TARGET = 8.0  # seconds to the first step
STEPS = 2
ENGINE = "import pytorch_lightning"
ROWS = (
    "command to the composed and validated config",
    "command to the end of the first step",
    "command to the end of the process",
    f"beside it: `python -c '{ENGINE}'`, to the end of the import",
)
# imports are what is measured: nothing heavy before `ready`
PROGRAM = """
import json, sys, time
from recipes.runs.start import ready, start
spec = ready(sys.argv[1:])
marks = [time.monotonic()]
from pytorch_lightning.callbacks import LambdaCallback
note = lambda *_: marks.append(time.monotonic())
start(spec, callbacks=[LambdaCallback(on_train_batch_end=note)])
print()
print(json.dumps(marks[:2]))
"""
CAUSE = (
    "Lightning needs torch and torchmetrics, and torchmetrics loads scipy, matplotlib, torchvision "
    "and transformers where they are installed (its issue 3457)"
)
CLI = Benchmark("speed/startup", __doc__, repeats=5)


def whole_run(folder: Path, options: argparse.Namespace) -> list[float]:
    """Seconds from the command to each moment of one process."""
    overrides = [
        "recipe=fixmatch",
        "data=digits",
        f"trainer.max_steps={STEPS}",
        f"trainer.accelerator={options.device.replace('cuda', 'gpu')}",
        "trainer.progress_bar=false",
        f"run_dir={folder}",
    ]
    began = time.monotonic()
    marks = [*json.loads(last_line("-c", PROGRAM, *overrides, threads=options.threads))]
    marks.append(time.monotonic())
    return [mark - began for mark in marks]


def engine_alone(options: argparse.Namespace) -> float:
    """Seconds until a process has imported Lightning and nothing else."""
    began = time.monotonic()
    program = f"import time; {ENGINE}; print(time.monotonic())"
    return float(last_line("-c", program, threads=options.threads)) - began


def measure(record: Record, options: argparse.Namespace) -> str | None:
    runs = []
    with tempfile.TemporaryDirectory() as name:
        whole_run(Path(name) / "warm", options)  # byte code and files into the cache
        for turn in range(options.repeats):
            run = whole_run(Path(name) / str(turn), options)
            runs.append([*run, engine_alone(options)])
    spreads = [Spread(list(seconds)) for seconds in zip(*runs, strict=True)]
    rows = [[row, spread.text(1.0, 2)] for row, spread in zip(ROWS, spreads, strict=True)]
    record.table("A short run", ["from … to", "s, median (min..max)"], rows)
    _, first, _, engine = (spread.median for spread in spreads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    why = f"on {cores} cores; `{ENGINE}` alone takes {engine:.1f} s. {CAUSE}"
    text = f"start-up to the first step under {TARGET:.0f} s"
    record.target(text, f"{first:.1f} s", first < TARGET, why)
    return None


if __name__ == "__main__":
    CLI.start(measure)
