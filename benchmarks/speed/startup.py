"""Seconds from the command to the first training step, and from the last one to the end, by stage.

Fresh processes, one after the other, run `recipe=fixmatch data=digits` for two steps, as train.py
does; files are in the system's cache. Each notes the time at its stages on the system's monotonic
clock, from before it was started. In turn with them a process that only says `import
pytorch_lightning`. One more run, under `-X importtime`, says which packages the imports are of.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

from benchmarks.command import Benchmark
from benchmarks.machine import ROOT
from benchmarks.record import Record
from benchmarks.speed.startup_child import FIRST, STAGES
from benchmarks.verdicts import Spread

TARGET = 8.0  # seconds to the first step
STEPS = 2
SHOWN = 12  # packages in the table
ENGINE = "import pytorch_lightning"
PROGRAM = """
import sys
from benchmarks.speed.startup_child import run
run(sys.argv[2:], float(sys.argv[1]))
"""
NOTE = "Under `-X importtime`, which itself makes imports slower: read the parts, not the sum."
CAUSE = (
    "Lightning needs torch and torchmetrics, and torchmetrics loads scipy, matplotlib, torchvision "
    "and transformers where they are installed (its issue 3457)"
)
CLI = Benchmark("speed/startup", __doc__, repeats=5)
CLI.add("recipe", "fixmatch", "recipe of the run")
CLI.add("data", "digits", "data set of the run")


def start(folder: Path, options: argparse.Namespace, *flags: str) -> tuple[list[float], str]:
    """Seconds of every stage of one process, and what it wrote on stderr."""
    overrides = [
        f"recipe={options.recipe}",
        f"data={options.data}",
        f"trainer.max_steps={STEPS}",
        f"trainer.accelerator={options.device.replace('cuda', 'gpu')}",
        "trainer.progress_bar=false",
        f"run_dir={folder}",
    ]
    began = time.monotonic()
    done = python(options, *flags, "-c", PROGRAM, str(began), *overrides)
    ended = time.monotonic() - began
    marks = [0.0, *json.loads(done.stdout.strip().splitlines()[-1]), ended]
    return [later - earlier for earlier, later in pairwise(marks)], done.stderr


def python(options: argparse.Namespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the run failed:\n{done.stderr[-2000:]}")
    return done


def engine_alone(options: argparse.Namespace) -> float:
    """Seconds until a process has imported Lightning and nothing else."""
    began = time.monotonic()
    done = python(options, "-c", f"import time; {ENGINE}; print(time.monotonic())")
    return float(done.stdout.strip().splitlines()[-1]) - began


def by_package(text: str) -> dict[str, float]:
    """Seconds of own time by package, largest first, from what `-X importtime` wrote."""
    spent: dict[str, float] = defaultdict(float)
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| *([\w.]+)", text):
        spent[name.partition(".")[0]] += int(own) / 1e6
    return dict(sorted(spent.items(), key=lambda entry: -entry[1]))


def measure(record: Record, options: argparse.Namespace) -> str | None:
    runs, alone = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start(folder / "warm", options)  # byte code and files into the cache
        for turn in range(options.repeats):
            runs.append(start(folder / str(turn), options)[0])
            alone.append(engine_alone(options))
        imports = by_package(start(folder / "imports", options, "-X", "importtime")[1])
    stages = dict(zip(STAGES, map(list, zip(*runs, strict=True)), strict=True))
    record.figures = {"stages": stages, ENGINE: alone, "imports": imports}
    first = Spread([sum(run[: FIRST + 1]) for run in runs])
    rows = [[name, seconds_text(values)] for name, values in stages.items()]
    to_first = ["**command to the end of the first step**", first.text(1.0, 2)]
    rows.insert(FIRST + 1, to_first)
    whole = [sum(run) for run in runs]
    rows.append(["**command to the end of the process**", seconds_text(whole)])
    beside = f"beside it: `python -c '{ENGINE}'`, to the end of the import"
    rows.append([beside, seconds_text(alone)])
    record.table("Stages of a short run", ["stage", "s, median (min..max)"], rows)

    most = list(imports.items())[:SHOWN]
    rest = sum(imports.values()) - sum(seconds for _, seconds in most)
    rows = [[name, f"{seconds:.2f}"] for name, seconds in [*most, ("all others", rest)]]
    record.table("Imports of the whole run by package", ["package", "own time, s"], rows, NOTE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in most[:5])
    why = (
        f"on {cores} core{'' if cores == 1 else 's'}; `{ENGINE}` alone takes "
        f"{Spread(alone).median:.1f} s. Largest under `-X importtime`, in s: {parts}. {CAUSE}"
    )
    text = f"start-up to the first step under {TARGET:.0f} s"
    record.target(text, f"{first.median:.1f} s", first.median < TARGET, why)
    return None


def seconds_text(values: list[float]) -> str:
    return Spread(values).text(1.0, 2)


def main(argv: Sequence[str] | None = None) -> int:
    return CLI.run(measure, argv)


if __name__ == "__main__":
    sys.exit(main())
