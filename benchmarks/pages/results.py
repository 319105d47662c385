"""What recipes reach on real data: every row of `results.yaml` trained with several seeds, and a
page of what came out.

    python benchmarks/pages/results.py digits --set data.root=FOLDER    # train what is missing
    python benchmarks/pages/results.py --page > docs/results.md         # the page, of kept numbers

A set is a list of commands that differ in one thing, on the same data, for as many steps. Numbers
are in `docs/results/SET.json`, with the commands, the hardware and the commit; runs are in
`outputs/results/SET/ROW/SEED`, and one that is there is not trained again. `{SET/ROW}` in a command
is the folder of that run with the same seed. A run that fails is reported and has no number.
"""

import argparse
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import yaml

from benchmarks.command import Command
from benchmarks.machine import ROOT, commit, hardware
from benchmarks.record import load, save
from benchmarks.table import of_words
from recipes.checkpointing.folder_files import METRICS, read_metrics
from recipes.delta_m import relative_gain
from recipes.predict.loading import last_stage

KEPT = ROOT / "docs" / "results"
NAMED_RUN = re.compile(r"\{(\w+)/([^}]+)\}")  # SET/ROW in an argument
SETS = Path(__file__).with_name("results.yaml")
SIZES = {  # columns of a set's `sizes`: the kept number and its unit
    "trained parameters": ("trained", 1),
    "checkpoint MiB": ("checkpoint_bytes", 2**20),
    "memory MiB": ("peak_memory_bytes", 2**20),
    "seconds": ("train_seconds", 1),
}
HEAD = """# Results

Made by `python benchmarks/pages/results.py --page > docs/results.md` from the numbers in
`docs/results/`; a test fails when it is stale. Each row is one command, run with the seeds named:
mean ± sample standard deviation in percent, of the metrics after the last step. A seed changes the
split of the data as well as the weights. Run times are in the headers of the recipes, where they
were measured on an idle machine. The commands are those of seed 0: where one begins with the
weights of another, the other has a `run_dir`. FOLDER is that of the pretrained encoder.
"""


@cache
def sets() -> dict[str, Any]:
    """The sets of `results.yaml` by name, read once in a process."""
    return yaml.safe_load(SETS.read_text(encoding="utf-8"))


def words(entry: dict[str, Any], row: str) -> list[str]:
    """The arguments of one row's command, without its seed."""
    return shlex.split(f"{entry['common']} {entry['rows'][row] or ''}")


def folder_of(name: str, row: str, seed: int) -> Path:
    return ROOT / "outputs" / "results" / name / re.sub(r"\W+", "_", row) / str(seed)


def filled(word: str, seed: int) -> str:
    """An argument with the folders of the runs that it names."""
    return NAMED_RUN.sub(lambda named: str(folder_of(named[1], named[2], seed)), word)


def pasteable(name: str, row: str, command: str) -> str:
    """A kept command as a reader can run it for seed 0, from the root of the repository."""
    arguments = [filled(word, 0) for word in shlex.split(command)]
    named = NAMED_RUN.findall(SETS.read_text(encoding="utf-8"))
    folder = folder_of(name, row, 0)
    if folder in {folder_of(*run, 0) for run in named}:
        arguments.append(f"run_dir={folder}")
    arguments += sets()[name].get("given", [])
    return shlex.join(arguments).replace(f"{ROOT}/", "")


def train(folder: Path, arguments: list[str], timeout: int) -> str | None:
    """Train one run if it is not there, or resume it; why it failed, where it did."""
    if (folder / METRICS).exists():
        return None
    command = [sys.executable, str(ROOT / "train.py"), *arguments, f"run_dir={folder}"]
    command.append("resume=auto")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"not done after {timeout} s"
    return str(done.stderr.strip().splitlines()[-1:]) if done.returncode else None


def measure(name: str, row: str, seed: int, options: argparse.Namespace) -> None:
    """Train one row with one seed and keep its numbers."""
    entry = sets()[name]
    if "program" in entry:
        keep(
            name,
            row,
            seed,
            f"python benchmarks/pages/results.py {name}",
            computed(entry, row, seed),
        )
        return
    folder = folder_of(name, row, seed)
    arguments = words(entry, row)
    given = [filled(word, seed) for word in [*arguments, *options.set]]
    fault = train(folder, [*given, f"seed={seed}", "trainer.progress_bar=false"], options.timeout)
    if fault is not None:
        print(f"{name}, {row}, seed {seed}: {fault}", file=sys.stderr)
        return
    reported = last_stage(folder) or folder
    final = read_metrics(reported / METRICS)
    wanted = [*entry["metrics"], "train_seconds", "peak_memory_bytes"]
    numbers = {metric: final[metric] for metric in wanted if metric in final} | sizes(
        folder, reported
    )
    keep(name, row, seed, shlex.join(["python", "train.py", *arguments]), numbers)


def computed(entry: dict[str, Any], row: str, seed: int) -> dict[str, float]:
    """A row that a program computes from the networks of another set."""
    program = import_module(entry["program"])
    networks = sets()[program.NETWORKS]["rows"]
    folders = {network: folder_of(program.NETWORKS, network, seed) for network in networks}
    found: dict[str, float] = program.numbers(row, entry["metrics"], folders, seed)
    return found


def keep(name: str, row: str, seed: int, command: str, numbers: dict[str, float]) -> None:
    """Write the numbers of one run to its set's file."""
    print(f"{name}, {row}, seed {seed}: {numbers}", flush=True)
    # read anew: another seed may have been trained at the same time
    path = KEPT / f"{name}.json"
    kept = load(path, {"rows": {}})
    line = kept["rows"].setdefault(row, {})
    line["command"] = command
    line.setdefault("seeds", {})[str(seed)] = numbers
    kept |= {"hardware": hardware(), "date": str(date.today()), "commit": commit()}
    save(path, kept)


def sizes(folder: Path, reported: Path) -> dict[str, float]:
    """How many parameters of the network a run trained, as its plan says, and the size of the last
    checkpoint of what is reported, the run or its last stage."""
    plan = (folder / "plan.txt").read_text(encoding="utf-8")
    count = re.search(r"([\d,]+) trainable parameters", plan)
    found: dict[str, float] = {"trained": int(count[1].replace(",", ""))} if count else {}
    last = reported / "checkpoints" / "last.ckpt"
    if last.exists():
        found["checkpoint_bytes"] = last.stat().st_size
    return found


# -- the page --------------------------------------------------------------------------------------
def summary(values: list[float]) -> str:
    """`91.3 ± 0.8` of several runs, in percent: all metrics of the sets are shares."""
    if not values:
        return "–"
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(entry: dict[str, Any], kept: dict[str, Any], name: str = "") -> list[str]:
    """The Markdown table of one set, then its commands."""
    alone = entry.get("alone", {})
    heads = [metric.removeprefix("test/").replace("_", " ") for metric in entry["metrics"]]
    heads += ["Δm %"] if alone else []
    heads += entry.get("sizes", [])
    rows, commands = [], []
    for row in entry["rows"]:
        if row not in kept["rows"]:
            continue
        seeds = kept["rows"][row]["seeds"]
        cells = []
        for metric in entry["metrics"]:
            cells.append(summary([run[metric] for run in seeds.values() if metric in run]))
        cells += [gain_text(alone, kept["rows"], row)] if alone else []
        cells += [size_text(column, seeds) for column in entry.get("sizes", [])]
        rows.append([row, *cells, ", ".join(sorted(seeds))])
        command = kept["rows"][row]["command"]
        line = (
            f"    {pasteable(name, row, command) if name and 'program' not in entry else command}"
        )
        commands += [] if line in commands else [line]
    lines = of_words(["", *heads, "seeds"], rows, f"|---|{'---:|' * (len(heads) + 1)}")
    # an empty cell of a head has one blank
    return [lines.replace("|  |", "| |", 1), "", *commands, ""]


def size_text(column: str, seeds: dict[str, dict[str, float]]) -> str:
    """The mean of a size over the seeds, with a decimal below ten."""
    key, unit = SIZES[column]
    values = [run[key] / unit for run in seeds.values() if key in run]
    if not values:
        return "–"
    mean = statistics.fmean(values)
    return f"{mean:,.1f}" if mean < 10 else f"{mean:,.0f}"


def gains(alone: dict[str, str], rows: dict[str, Any], row: str) -> dict[str, float]:
    """Δm of a row by seed, in percent, against the means of the single tasks: alone is {metric:
    row}. Nothing for a single task, nor where one of them has no numbers."""
    if row in alone.values() or not set(alone.values()) <= rows.keys():
        return {}
    base = {}
    for metric, single in alone.items():
        runs = rows[single]["seeds"].values()
        base[metric] = statistics.fmean(run["test/accuracy"] for run in runs)
    found = {}
    for seed, run in rows[row]["seeds"].items():
        each = [relative_gain(run[metric], base[metric], False) for metric in alone]
        found[seed] = statistics.fmean(each)
    return found


def gain_text(alone: dict[str, str], rows: dict[str, Any], row: str) -> str:
    values = list(gains(alone, rows, row).values())
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.2f}{deviation}"


def page() -> str:
    """The page of all sets that have numbers."""
    lines = [HEAD]
    for name, entry in sets().items():
        kept = load(KEPT / f"{name}.json")
        if kept is not None:
            lines += [f"## {entry['title']}", "", entry["about"].strip(), ""]
            lines += table(entry, kept, name)
            lines += [f"{kept['hardware']}; {kept['date']}, commit {kept['commit']}.", ""]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Command("pages/results", __doc__)
    parser.add_argument("name", nargs="?", choices=list(sets()), help="the set to measure")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows")
    parser.add_argument("--seeds", default="0,1,2")
    about = "more overrides, e.g. data.root=FOLDER; not on the page"
    parser.add_argument("--set", nargs="*", default=[], help=about)
    parser.add_argument("--timeout", type=int, default=3600, help="seconds a run may take")
    parser.add_argument("--page", action="store_true", help="print the page instead")
    options = parser.parse_args(argv)
    if options.page:
        print(page(), end="")
        return 0
    if options.name is None:
        parser.error("name a set, or --page")
    every = list(sets()[options.name]["rows"])
    rows = options.rows or every
    unknown = sorted(set(rows) - set(every))
    if unknown:
        parser.error(f"{options.name} has no row {', '.join(unknown)}")
    seeds = options.seeds.split(",")
    if not all(map(str.isdigit, seeds)):
        parser.error(f"--seeds {options.seeds}: expected numbers separated by commas")
    for seed in map(int, seeds):
        for row in rows:
            measure(options.name, row, seed, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
