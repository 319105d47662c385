"""What a survey costs: its time beside the forwards of its samples alone, and its memory beside
that of its table.

    python -m benchmarks.speed.surveys
    python -m benchmarks.speed.surveys --rows 0 --pictures 20000

`pictures` 32×32 in memory are surveyed by the engine, and forwarded by a loop by hand, in turn:
logits and features of each are written to the host. `rows` pictures of 8×8 are surveyed once for
the memory of the process: what is resident before, and the most that is resident during the survey,
which Linux counts from when it is asked to.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import Times, now
from benchmarks.command import Benchmark
from benchmarks.made import CLASSES, Made
from benchmarks.ours import Runs
from benchmarks.record import Record
from benchmarks.table import mebibytes
from benchmarks.verdicts import apart
from datamodules.source import ArraySource, DataInfo, Splits
from recipes.contract import Clock, Declaration, Method, Seen, Survey
from recipes.engine.hardware import resident_memory
from recipes.engine.recipe import Recipe
from recipes.networks.network import eval_mode
from recipes.runs.run import build_recipe, build_trainer

TARGET = 1.05  # of the time of the forwards alone
GROWTH = 1.25  # of the bytes of the table
CLI = Benchmark("speed/surveys", __doc__, repeats=5)
CLI.add("pictures", 10_000, "pictures that are surveyed for the time", least=1000)
CLI.add("rows", 1_000_000, "pictures that are surveyed for the memory, 0 for none", least=0)


def outputs(seen: Seen) -> dict[str, Tensor]:
    assert seen.features is not None
    return {"logits": seen.logits["label"], "features": seen.features}


class Surveyed(Method):
    """Declares a survey of all training samples; the benchmark makes it."""

    declaration = Declaration(
        surveys=(Survey("all", "unlabeled", outputs, Clock.once(10**9)),),
        views={"unlabeled": ("weak",)},
    )
    table: Any = None

    def surveyed(self, survey: Survey, table: Any, context: Any) -> None:
        Surveyed.table = table


class Small(Made):
    """Grey pictures of 8×8, all black: their number is what counts."""

    def info(self) -> DataInfo:
        return DataInfo("image", {"label": CLASSES}, (1, 8, 8), self.size)

    def _part(self, count: int, seed: int) -> ArraySource:
        names = [str(name) for name in range(CLASSES)]
        black = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
        return ArraySource(black, {"label": torch.arange(count) % CLASSES}, {"label": names})

    def load(self, root: str | Path | None = None) -> Splits:
        return Splits(self._part(self.size, 0), self._part(CLASSES, 1))


def trained(
    source: str, size: int, width: int, options: argparse.Namespace, folder: Path
) -> Recipe:
    """A recipe after one step, with its trainer and its data."""
    torch.set_num_threads(options.threads)
    overrides = (
        "data=digits",
        f"data.source._target_=benchmarks.speed.surveys.{source}",
        f"+data.source.size={size}",
        "~data.source.tasks",
        "data.val_fraction=0",
        "data.batch_size=8",
        "network.name=digits_cnn",
        f"+network.options.width={width}",
    )
    assembly, place = Runs(options.device, folder / source, overrides).assembly(1)
    method = Surveyed()
    method.key = "surveyed"
    composition = assembly.composition
    composition.methods[method.key] = method
    composition.declarations[method.key] = method.declaration
    recipe = build_recipe(assembly)
    trainer = build_trainer(assembly, [], place, [])
    trainer.fit(recipe, datamodule=assembly.datamodule)
    return recipe


def by_hand(recipe: Recipe) -> dict[str, Tensor]:
    """The forwards of the same samples, in the same batches, and what they give on the host."""
    network = recipe.network
    data = recipe.trainer.datamodule  # type: ignore[attr-defined]
    found: dict[str, list[Tensor]] = {"logits": [], "features": []}
    with torch.no_grad(), eval_mode(recipe):
        for batch in data.share_loader("unlabeled"):
            batch = data.transfer_batch_to_device(batch, recipe.device, 0)
            output = network(network.embed(data.make_view(batch, "raw")))
            found["logits"].append(output.logits["label"].cpu())
            found["features"].append(output.features.cpu())
    return {name: torch.cat(rows) for name, rows in found.items()}


def by_engine(recipe: Recipe) -> dict[str, Tensor]:
    recipe.surveys.make(recipe.surveys.asked)
    return {name: Surveyed.table[name] for name in ("logits", "features")}


def time_of(record: Record, options: argparse.Namespace, folder: Path) -> str | None:
    recipe = trained("Made", options.pictures, 32, options, folder)
    runs = {"by hand": by_hand, "survey": by_engine}
    first, second = (run(recipe) for run in runs.values())
    if not all(torch.equal(first[name], second[name]) for name in first):
        return "the survey's table is not what the network says"
    times = {name: Times() for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            begun = now(options.device)
            run(recipe)
            times[name].add(begun, now(options.device), 1)
    ratio = times["by hand"].ratio(times["survey"], options.by)
    rows = [[name, one.of(options.by).text()] for name, one in times.items()]
    rows.append(["ratio", ratio.text(1, 3)])
    record.table(f"A pass over {options.pictures:,} pictures", ["what", "ms"], rows)
    _, met = apart({"survey": ratio}, TARGET)
    text = "a survey costs a forward of every sample and no more (5 %)"
    record.target(text, f"{ratio.text(1, 3)} times the forwards alone", met)
    return None


def memory_of(record: Record, options: argparse.Namespace, folder: Path) -> None:
    recipe = trained("Small", options.rows, 4, options, folder)
    Path("/proc/self/clear_refs").write_text("5")  # the most is counted anew from here on
    before = resident_memory(most=False)
    table = by_engine(recipe)
    after = resident_memory(most=True)
    size = sum(rows.nbytes for rows in table.values()) + 8 * options.rows  # and its index
    rows = [["table", mebibytes(size)], ["more in memory", mebibytes(after - before)]]
    record.table(f"Memory of a survey of {options.rows:,} samples", ["what", "MiB"], rows)
    text = "host memory of a survey is that of its table (25 %)"
    grown = (after - before) / size
    record.target(text, f"{grown:.2f} times its bytes", grown < GROWTH)


def measure(record: Record, options: argparse.Namespace) -> str | None:
    with tempfile.TemporaryDirectory() as name:
        wrong = time_of(record, options, Path(name))
        if wrong is None and options.rows:
            memory_of(record, options, Path(name))
    return wrong


if __name__ == "__main__":
    CLI.start(measure)
