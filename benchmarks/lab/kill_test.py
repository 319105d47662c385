"""Kills runs with SIGKILL at random moments, lets them go on, and compares what they end with to
the bit.

    python benchmarks/lab/kill_test.py                            # every recipe, 4 kills each
    python benchmarks/lab/kill_test.py fixmatch crt --kills 10
    python benchmarks/lab/kill_test.py --page                     # the table of docs/reliability.md

Each recipe is trained for a few steps and left alone, then trained again with `resume=auto` and
killed at moments drawn evenly from the time that the first run took after it had begun to write,
its last report left out. Where a run comes to its end before its kill it is compared, and another
one is begun. Weights, optimizer, schedule, best checkpoint and every logged number of all must
agree. What a run is at when it is killed is noted for the table.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: its folder gives way to the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import benchmarks  # noqa: F401

from benchmarks.command import Command
from benchmarks.machine import ROOT, commit, hardware
from benchmarks.record import load, save
from benchmarks.table import of_words
from recipes.config.groups import CONFIGS
from tests.support.killed_runs import PHASES, at, begin, differences, finish, state
from tests.support.tiny_runs import text_file

KEPT = ROOT / "docs" / "results" / "kill_test.json"
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


def settings(recipe: str) -> list[str]:
    """The short command of a recipe: texts are those of the tests, so that nothing has to be
    fetched."""
    text = (CONFIGS / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8")
    asked = [f"recipe={recipe}", *SHORT, *OWN.get(recipe, ())]
    if "override /data: trec" not in text:
        return asked
    asked += ["data=text_file", f"data.source.train_file={text_file()}", *TEXT]
    if "override /data: trec_tasks" in text:
        return [*asked, "data.source.label_column=[label,length]"]
    return [*asked, "data.source.label_column=label", "data.labels_per_class=8"]


def killed(recipe: str, kills: int, source: random.Random, place: Path) -> dict[str, Any]:
    """Kill a recipe so many times; returns what was found."""
    arguments = settings(recipe)
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
    kept = load(KEPT)
    columns = ["elsewhere" if phase == "elsewhere" else f"in {phase}" for phase in PHASES]
    head = ["recipe", "kills in all", *columns, "bit-identical"]
    rows = []
    phases: list[str] = []
    for recipe, found in kept["recipes"].items():
        different = ", ".join(found["differing"])
        verdict = f"**no**: {different}" if different else "yes"
        rows.append([f"`{recipe}`", str(found["kills"]), *counts(found["phases"]), verdict])
        phases += found["phases"]
    total = sum(found["kills"] for found in kept["recipes"].values())
    table = of_words(head, rows, f"|---|{'---:|' * (len(PHASES) + 1)}---|")
    last = f"| all | {total} | {' | '.join(counts(phases))} | |"
    return f"{table}\n{last}\n\n {kept['hardware']}; commit {kept['commit']}.\n"


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
    kept = load(KEPT, {"recipes": {}})
    kept["recipes"][recipe] = found
    kept |= {"hardware": hardware(), "commit": commit()}
    save(KEPT, kept)
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
