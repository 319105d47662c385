"""Seconds to the first training step and peak memory with a large set of one's own, at its first
start and at later ones; and what an evaluation batch costs with many classes.

Pictures are hard links to a few small PNGs in a folder for each of 1000 classes. Texts are rows of
a csv: a sentence of 12 words and a number of one's own, about 80 bytes. Each start is a process of
its own, `recipe=fixmatch` with one step, as train.py does; files are in the system's cache. Memory
is the largest resident set of the process, pages of mapped files among them.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.command import Benchmark
from benchmarks.machine import last_line
from benchmarks.record import Record
from recipes.engine.evaluator import Evaluator
from recipes.tasks.classification import ClassificationTask

START = 20.0  # seconds to the first step of a later start
PEAKS = {"pictures": 1.5, "rows": 2.0}  # GiB
WHOLE = {"pictures": 1_000_000, "rows": 10_000_000}  # the sizes of the targets
EVALUATION = 20.0  # milliseconds of a batch beyond the forward
LINKS = 50_000  # hard links to one file, which file systems limit
FOLDERS = 1000
WORDS, SENTENCES = 20_000, 100_000
BATCH = 256
# nothing heavy before `ready`: imports belong to the start
PROGRAM = """
import json, os, sys, time
from recipes.runs.start import ready, start
spec = ready(sys.argv[1:])
from pytorch_lightning.callbacks import LambdaCallback
from recipes.engine.hardware import resident_memory
def end(*_):
    peak = resident_memory(most=True) / 2**30
    print()
    print(json.dumps([time.monotonic(), peak, time.process_time()]), flush=True)
    os._exit(0)
start(spec, callbacks=[LambdaCallback(on_train_batch_end=end)])
"""
CLI = Benchmark("speed/large_sets", __doc__, repeats=3)
CLI.add("pictures", WHOLE["pictures"], "files of the folder of pictures, 0 for none", least=0)
CLI.add("rows", WHOLE["rows"], "rows of the csv of texts, 0 for none", least=0)
CLI.add("classes", 10_000, "classes of the evaluation, 0 for none", least=0)


# -- sets ------------------------------------------------------------------------------------------
def pictures(folder: Path, count: int) -> list[str]:
    """Write `count` pictures, a tenth of them for test. Returns the overrides that name them."""
    folder.mkdir()
    source = folder / "source.png"
    for number in range(count):
        if number % LINKS == 0:
            source = folder / f".source{number}.png"
            Image.new("L", (8, 8), number // LINKS % 256).save(source)
        part = "test" if number % 10 == 0 else "train"
        place = folder / part / f"class{number // 10 % FOLDERS:04d}"
        if number < 10 * FOLDERS:
            place.mkdir(parents=True, exist_ok=True)
        os.link(source, place / f"picture{number:08d}.png")
    form = ["data.source.size=8", "data.source.channels=1", "data.eval_batch_size=16"]
    return ["data=image_folder", f"data.root={folder}", *form]


def texts(folder: Path, count: int) -> list[str]:
    """Write `count` texts of four classes. Returns the overrides that name them."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    letters = draws.integers(97, 123, (WORDS, 6), dtype=np.uint8)
    words = [bytes(row[: 3 + i % 4]).decode() for i, row in enumerate(letters)]
    # common words are common: the rank of a word is drawn evenly on a logarithmic scale
    ranks = np.exp(draws.random((SENTENCES, 12)) * np.log(WORDS)).astype(int) - 1
    sentences = [" ".join(words[rank] for rank in row) for row in ranks]
    path = folder / "texts.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for start in range(0, count, SENTENCES):
            stop = min(start + SENTENCES, count)
            rows = zip(range(start, stop), sentences, strict=False)
            file.writelines(f"{text} {i % 50_021},{i % 4}\n" for i, text in rows)
    return ["data=text_file", f"data.source.train_file={path}", "data.eval_batch_size=16"]


# -- starts ----------------------------------------------------------------------------------------
def started(overrides: list[str], run: Path, options: argparse.Namespace) -> list[float]:
    """Seconds from the command to the end of the first step, peak GiB, and seconds of the
    processor."""
    accelerator = options.device.replace("cuda", "gpu")
    more = ["recipe=fixmatch", "trainer.max_steps=1", f"trainer.accelerator={accelerator}"]
    more += ["trainer.progress_bar=false", f"run_dir={run}"]
    begun = time.monotonic()
    line = last_line("-c", PROGRAM, *overrides, *more, threads=options.threads)
    ended, peak, worked = json.loads(line)
    return [ended - begun, peak, worked]


def starts(record: Record, what: str, overrides: list[str], options: argparse.Namespace) -> None:
    """The first start and later ones, and the verdict on them."""
    count = getattr(options, what)
    with tempfile.TemporaryDirectory() as name:
        turns = range(options.repeats + 1)
        first, *later = [started(overrides, Path(name) / str(turn), options) for turn in turns]
    head = ["start", "s to the first step", "of the processor", "peak memory, GiB"]
    rows = [["first", f"{first[0]:.1f}", f"{first[2]:.1f}", f"{first[1]:.2f}"]]
    for seconds, peak, worked in later:
        rows.append(["later", f"{seconds:.1f}", f"{worked:.1f}", f"{peak:.2f}"])
    record.table(f"{count:,} {what}", head, rows)
    # of pictures the first start is not judged: it decodes every file once
    judged = [first, *later] if what == "rows" else later
    least, most = min(each[0] for each in later), max(each[0] for each in later)
    peak = max(each[1] for each in judged)
    text = f"{WHOLE[what]:,} {what}: later starts under {START:.0f} s, peak under {PEAKS[what]} GiB"
    met, why = verdict(count >= WHOLE[what], least, most, peak < PEAKS[what])
    found = f"{count:,} {what}: {least:.1f} to {most:.1f} s, {peak:.2f} GiB"
    record.target(text, found, met, why)


def verdict(whole: bool, least: float, most: float, small: bool) -> tuple[bool | None, str]:
    """Whether a target is met, and why that is open. whole: the set has the target's size."""
    if least >= START or not small:
        return False, ""
    if not whole:
        return None, "a smaller set than that of the target"
    return (True, "") if most < START else (None, "some starts are faster, some slower")


# -- evaluation ------------------------------------------------------------------------------------
def evaluation(record: Record, options: argparse.Namespace) -> None:
    """Milliseconds of the metrics of one batch."""
    names = [f"class {number}" for number in range(options.classes)]
    evaluator = Evaluator([ClassificationTask("label", names)], both=False)
    device = torch.device(options.device)
    evaluator.to(device)
    logits = torch.randn(BATCH, options.classes, device=device)
    labels = torch.randint(0, options.classes, (BATCH,), device=device)
    # of the processor where there is no other device: neighbors disturb it least
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    seconds = []
    for _ in range(20 + options.repeats):
        begun = clock()
        evaluator.update(False, {"label": logits}, {"label": labels})
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(1e3 * (clock() - begun))
    begun = clock()
    evaluator.compute("test")
    whole = 1e3 * (clock() - begun)
    median = sorted(seconds[10:])[len(seconds[10:]) // 2]
    rows = [["metrics of a batch", f"{median:.2f}"], ["their end, once a part", f"{whole:.1f}"]]
    record.table(f"A batch of {BATCH} with {options.classes:,} classes", ["what", "ms"], rows)
    text = f"10,000 classes: a batch of {BATCH} at most {EVALUATION:.0f} ms beyond the forward"
    record.target(text, f"{median:.1f} ms", median <= EVALUATION)


def measure(record: Record, options: argparse.Namespace) -> str | None:
    if options.classes:
        evaluation(record, options)
    for what, write in (("pictures", pictures), ("rows", texts)):
        if not getattr(options, what):
            continue
        with tempfile.TemporaryDirectory() as name:
            os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
            overrides = write(Path(name) / "set", getattr(options, what))
            time.sleep(3)  # a folder that has just changed is read again
            starts(record, what, overrides, options)
    return None


if __name__ == "__main__":
    CLI.start(measure)
