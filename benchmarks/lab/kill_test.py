"""Kills runs with SIGKILL at random moments, lets them go on, and compares what they end with to
the bit.

    python benchmarks/lab/kill_test.py                            # every recipe, 4 kills each
    python benchmarks/lab/kill_test.py fixmatch crt --kills 10
    python benchmarks/lab/kill_test.py --page                     # the table of docs/reliability.md

Each recipe is trained for a few steps and left alone, then trained again with `resume=auto` and
killed at moments drawn evenly from the time that the first run took after it had begun to write,
its last report left out. Where a run comes to its end before its kill it is compared, and another
one is begun. Weights, optimizer, schedule, best checkpoint and every logged number of all must
agree. Runs are processes of their own; a server that has imported everything forks them, so that
time goes into training. A thread in each notes what it is at, a thousand times a second, for the
table.
"""

import argparse
import csv
import json
import mmap
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

import torch

from benchmarks.command import Command
from benchmarks.machine import ROOT, commit, hardware
from recipes.cli.main import main as main_of_roux
from recipes.config.groups import CONFIGS
from recipes.runs.checkpoint_files import LOCK

KEPT = ROOT / "docs" / "results" / "kill_test.json"
SERVER = multiprocessing.get_context("forkserver")
ENGINE = ["recipes.runs.run", "recipes.runs.stages", "recipes.config.resolve"]
SERVER.set_forkserver_preload([*ENGINE, "timm", "recipes.networks.text"])
# what a run is at, by the functions that are under way in it, the first that is found
VALIDATION = ("on_validation_start", "on_validation_end", "on_validation_batch_end")
STEP = ("training_step", "optimizer_step", "backward")
PHASES = {
    "a checkpoint": ("save_checkpoint",),
    "validation": ("validation_step", *VALIDATION),
    "test": ("test_step", "on_test_start", "on_test_end"),
    "the report": ("leave_behind", "write_outputs"),
    "a step": (*STEP, "on_train_batch_end", "on_train_batch_start"),
    "elsewhere": (),  # set-up, between two steps, between two stages
}
WIDTH = 16
MACHINE = ("train_seconds", "peak_memory_bytes")  # what the machine did, not what was computed
SHORT = (
    "trainer.max_steps=120",
    "trainer.val_every=8",
    "trainer.log_every=5",
    "checkpoint.every_n_steps=3",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.progress_bar=false",
    "data.batch_size=8",
)
CRT = "'long_tail=[classifier_retraining,class_balanced_sampling]','trainer.max_steps=80'"
OWN = {
    "crt": (f"stages.classifier=[{CRT}]",),
    "lora_image": ("network.name=digits_cnn",),
    "multi_similarity": ("data.batch_size=16",),
}
TEXT = ("network.name=roux_text_small", "network.pretrained=false", "data.text.vocab_size=200")


WORDS = ("about", "the", "a", "day", "of", "people", "in", "town")


def settings(recipe: str, folder: Path) -> list[str]:
    """The short command of a recipe: texts are of our own making, so that nothing has to be
    fetched."""
    text = (CONFIGS / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8")
    asked = [f"recipe={recipe}", *SHORT, *OWN.get(recipe, ())]
    if "override /data: trec" not in text:
        return asked
    asked += ["data=text_file", f"data.source.train_file={write_texts(folder)}", *TEXT]
    if "override /data: trec_tasks" in text:
        return [*asked, "data.source.label_column=[label,tone]"]
    return [*asked, "data.source.label_column=label", "data.labels_per_class=8"]


def write_texts(folder: Path) -> Path:
    """A small set of texts in three classes and two tones."""
    path, source = folder / "texts.csv", random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "tone"])
        for number in range(240):
            label, tone = ("news", "sport", "law")[number % 3], ("glad", "sad")[number % 2]
            words = source.sample([*WORDS, label, tone], 8)
            rows.writerow([" ".join([*words, label, tone]), label, tone])
    return path


def watch(thread: int, note: mmap.mmap) -> None:
    """Keep noting what a thread is at; the note outlives the process."""
    while True:
        frame, names = sys._current_frames().get(thread), set()
        while frame is not None:
            names.add(frame.f_code.co_name)
            frame = frame.f_back
        found = next((phase for phase, own in PHASES.items() if names & set(own)), "elsewhere")
        note[:WIDTH] = found.encode().ljust(WIDTH)
        time.sleep(0.001)


def train(arguments: list[str], words: Path) -> None:
    """The process of one run: what it prints goes to a file."""
    with words.with_suffix(".phase").open("w+b") as file:
        file.truncate(WIDTH)
        note = mmap.mmap(file.fileno(), WIDTH)
    threading.Thread(target=watch, args=(threading.get_ident(), note), daemon=True).start()
    with words.open("w", encoding="utf-8") as file:
        sys.stdout = sys.stderr = file
        torch.set_num_threads(1)
        sys.argv = [str(ROOT / "train.py"), *arguments]
        sys.exit(main_of_roux(arguments))


def start(arguments: list[str], folder: Path) -> Any:
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [*arguments, f"run_dir={folder}", "resume=auto"]
    process = SERVER.Process(target=train, args=(command, folder.with_suffix(".txt")))
    process.start()
    return process


def begin(arguments: list[str], folder: Path) -> Any:
    """Start a run and wait until it writes: it holds its folder, or a stage's, then."""
    for lock in folder.rglob(LOCK):
        lock.unlink()  # of a process that was killed
    process = start(arguments, folder)
    while process.is_alive() and not any(folder.rglob(LOCK)):
        time.sleep(0.005)
    return process


def at(folder: Path) -> str:
    """What a run is at, or was when it ended."""
    return folder.with_suffix(".phase").read_text(encoding="utf-8").strip()


def finish(arguments: list[str], folder: Path) -> float:
    """Let a run end; returns its seconds between the first writing and its last report, which would
    take most kills. RuntimeError with its words where it fails."""
    process = begin(arguments, folder)
    begun = last = time.monotonic()
    while process.is_alive():
        process.join(0.01)
        last = last if at(folder) == "the report" else time.monotonic()
    if process.exitcode:
        raise RuntimeError(folder.with_suffix(".txt").read_text(encoding="utf-8").strip()[-500:])
    return last - begun


def state(folder: Path) -> dict[str, Any]:
    """Everything a run ends with that must not depend on its interruptions."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.ckpt")):
        content = torch.load(path, map_location="cpu", weights_only=True)
        name = str(path.relative_to(folder))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            found[f"{name}: {part}"] = content[part]
    for path in sorted(folder.rglob("metrics.csv")):
        found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
    for path in sorted([*folder.rglob("metrics.json"), *folder.rglob("stages.json")]):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[str(path.relative_to(folder))] = without_seconds(content)
    return found


def without_seconds(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_seconds(value) for key, value in tree.items() if key not in MACHINE}
    return tree


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """What two runs end with that is not the same."""
    keys = one.keys() | other.keys()
    return {key for key in keys if not same(one.get(key), other.get(key))}


def killed(recipe: str, kills: int, source: random.Random, place: Path) -> dict[str, Any]:
    """Kill a recipe so many times; returns what was found."""
    arguments = settings(recipe, place)
    seconds = finish(arguments, place / "whole")
    whole = state(place / "whole")
    phases: list[str] = []
    differing: set[str] = set()
    run = 0
    while len(phases) < kills:
        folder = place / f"killed{run}"
        process = begin(arguments, folder)
        process.join(source.uniform(0, seconds))
        if process.is_alive():
            process.kill()
            process.join()
            phases.append(at(folder))
        if len(phases) == kills or process.exitcode == 0:
            finish(arguments, folder)
            differing |= differences(whole, state(folder))
            run += 1
    found = {"seconds": round(seconds, 1), "kills": len(phases), "phases": phases}
    return {**found, "differing": sorted(differing)}


def page() -> str:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    columns = ["elsewhere" if phase == "elsewhere" else f"in {phase}" for phase in PHASES]
    rows = [["recipe", "kills in all", *columns, "bit-identical"]]
    phases: list[str] = []
    for recipe, found in kept["recipes"].items():
        different = ", ".join(found["differing"])
        verdict = f"**no**: {different}" if different else "yes"
        rows.append([f"`{recipe}`", str(found["kills"]), *counts(found["phases"]), verdict])
        phases += found["phases"]
    total = sum(found["kills"] for found in kept["recipes"].values())
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|---|{'---:|' * (len(PHASES) + 1)}---|")
    lines.append(f"| all | {total} | {' | '.join(counts(phases))} | |")
    return "\n".join([*lines, "", f" {kept['hardware']}; commit {kept['commit']}."]) + "\n"


def counts(phases: list[str]) -> list[str]:
    return [str(phases.count(phase)) for phase in PHASES]


def tried(recipe: str, options: argparse.Namespace) -> bool:
    """Kill one recipe and keep what was found; whether it ended as the undisturbed one."""
    with tempfile.TemporaryDirectory() as place:
        source = random.Random(f"{options.seed} {recipe}")
        try:
            found = killed(recipe, options.kills, source, Path(place))
        except RuntimeError as error:
            print(f"{recipe}: {error}", file=sys.stderr)
            return False
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {"recipes": {}}
    kept["recipes"][recipe] = found
    kept |= {"hardware": hardware(), "commit": commit()}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(recipe, found, flush=True)
    return not found["differing"]


def main(argv: Sequence[str] | None = None) -> int:
    names = sorted(path.stem for path in (CONFIGS / "recipe").glob("*.yaml"))
    parser = Command("lab/kill_test", __doc__)
    parser.add_argument("recipes", nargs="*", help="all of them where none is named")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="print the table of what is kept")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.recipes) - set(names))
    if unknown or options.kills < 1:
        parser.error(f"no recipe {', '.join(unknown)}" if unknown else "--kills is at least 1")
    if options.page:
        print(page(), end="")
        return 0
    passed = [tried(recipe, options) for recipe in options.recipes or names]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
