"""From the command to the first training step, and from the last one to the end: where the seconds
go.

    python benchmarks/speed/startup.py

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
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(ROOT)
    import benchmarks  # noqa: F401

TARGET = 8.0  # seconds to the first step
STEPS = 2
STAGES = (
    "interpreter",
    "config: composed, validated, what it names imported",
    "engine imported",
    "data read, network built, trainer made",
    "to the first step",
    "first step",
    "second step, validations, checkpoints",
    "test, page, end of the process",
)
FIRST = STAGES.index("first step")
ENGINE = "import pytorch_lightning"


# -- in the process that is measured ---------------------------------------------------------------
def child(overrides: list[str], began: float) -> None:
    """Run, and print the seconds since `began` at the end of each stage but the last as JSON."""
    marks = [time.monotonic() - began]
    from recipes.cli.main import ready, start

    config = ready(overrides)
    marks.append(time.monotonic() - began)
    from pytorch_lightning.callbacks import Callback

    import recipes.runs.run  # noqa: F401

    marks.append(time.monotonic() - began)

    class Marks(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if stage == "fit":
                marks.append(time.monotonic() - began)

        def on_train_batch_start(self, *args: Any) -> None:
            if len(marks) == FIRST - 1:
                marks.append(time.monotonic() - began)

        def on_train_batch_end(self, *args: Any) -> None:
            if len(marks) == FIRST:
                marks.append(time.monotonic() - began)

        def on_train_end(self, *args: Any) -> None:
            marks.append(time.monotonic() - began)

    start(config, overrides, callbacks=[Marks()])
    print(f"\n{json.dumps(marks)}", flush=True)


# -- the measurement -------------------------------------------------------------------------------
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
    program = (
        "import sys; from benchmarks.speed.startup import child; "
        "child(sys.argv[2:], float(sys.argv[1]))"
    )
    began = time.monotonic()
    done = python(options, *flags, "-c", program, str(began), *overrides)
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


def measure(
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], list[float], dict[str, float]]:
    """Seconds by stage, a value a process; those of the engine's import alone; and those of imports
    by package."""
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        start(Path(folder) / "warm", options)  # byte code and files into the cache
        for turn in range(options.repeats):
            for stage, seconds in zip(
                STAGES, start(Path(folder) / str(turn), options)[0], strict=True
            ):
                found[stage].append(seconds)
            alone.append(engine_alone(options))
        imports = by_package(start(Path(folder) / "imports", options, "-X", "importtime")[1])
    return found, alone, imports


def report(
    record: Any,
    stages: Mapping[str, list[float]],
    alone: list[float],
    imports: Mapping[str, float],
    cores: int,
) -> None:
    from benchmarks.clock import Spread

    first = [
        sum(values) for values in zip(*[stages[name] for name in STAGES[: FIRST + 1]], strict=True)
    ]
    whole = [sum(values) for values in zip(*stages.values(), strict=True)]
    rows = [[name, Spread(values).text(1.0, 2)] for name, values in stages.items()]
    rows.insert(FIRST + 1, ["**command to the end of the first step**", Spread(first).text(1.0, 2)])
    rows.append(["**command to the end of the process**", Spread(whole).text(1.0, 2)])
    rows.append(
        [f"beside it: `python -c '{ENGINE}'`, to the end of the import", Spread(alone).text(1.0, 2)]
    )
    record.table("Stages of a short run", ["stage", "s, median (min..max)"], rows)
    most = list(imports.items())[:12]
    rest = sum(imports.values()) - sum(seconds for _, seconds in most)
    record.table(
        "Imports of the whole run by package",
        ["package", "own time, s"],
        [[name, f"{seconds:.2f}"] for name, seconds in [*most, ("all others", rest)]],
        "Under `-X importtime`, which itself makes imports slower: read the parts, not the sum.",
    )
    middle, engine = Spread(first).row()["median"], Spread(alone).row()["median"]
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in most[:5])
    why = (
        f"on {cores} core{'s' if cores > 1 else ''}; `{ENGINE}` alone takes {engine:.1f} s. "
        "Largest under "
        f"`-X importtime`, in s: {parts}. Lightning needs torch and torchmetrics, and torchmetrics "
        "loads scipy, "
        "matplotlib, torchvision and transformers where they are installed (its issue 3457)"
    )
    record.target(
        f"start-up to the first step under {TARGET:.0f} s", f"{middle:.1f} s", middle < TARGET, why
    )
    record.figures = {"stages": dict(stages), ENGINE: alone, "imports": dict(imports)}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="fixmatch")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--repeats", type=int, default=5, help="processes that are measured")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch's operations")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads are positive")
    return options


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    stages, alone, imports = measure(options)
    import torch

    from benchmarks.record import Record

    torch.set_num_threads(options.threads)  # of the runs, which the record tells
    record = Record("speed/startup", str(__doc__), device=options.device)
    report(
        record,
        stages,
        alone,
        imports,
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
    )
    record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
