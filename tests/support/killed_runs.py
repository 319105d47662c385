"""Runs of `train.py` in processes of their own, to be killed, and what they end with.

A server that has imported everything forks them, so that time goes into training. A thread in each
notes what it is at, a thousand times a second; the note outlives the process.
"""

import json
import mmap
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import ROOT
from foundation.tensor_files import read_tensors
from recipes.checkpointing.files import LOCK
from recipes.cli.main import main as main_of_roux
from tests.support.processes import SERVER

# what a run is at, by the functions that are under way in it, the first that is found
VALIDATION = ("on_validation_start", "on_validation_end", "on_validation_batch_end")
STEP = ("training_step", "optimizer_step", "backward")
PHASES = {
    "a survey": ("tables_of", "fisher_of"),
    "a checkpoint": ("save_checkpoint",),
    "validation": ("validation_step", *VALIDATION),
    "test": ("test_step", "on_test_start", "on_test_end"),
    "the report": ("write_outputs",),
    "a step": (*STEP, "on_train_batch_end", "on_train_batch_start"),
    "elsewhere": (),  # set-up, between two steps, between two stages
}
WIDTH = 16
MACHINE = ("train_seconds", "peak_memory_bytes")  # what the machine did, not what was computed


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
        content = read_tensors(path)
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
