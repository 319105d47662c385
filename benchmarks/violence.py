"""Kills runs with SIGKILL at random moments, lets them go on, and compares what they end with to the bit.

    python benchmarks/violence.py                                  # every recipe, 4 kills each
    python benchmarks/violence.py fixmatch crt --kills 10
    python benchmarks/violence.py --page                           # the table, from the numbers kept

Each recipe is trained for a few steps and left alone, then trained again with `resume=auto` and killed at moments drawn
evenly from the time that the first run took between its first output and its end: in a step, in a validation, while a
checkpoint is written, between two stages. At last it may finish. Weights, optimizer, schedule, best checkpoint and
every logged number of both must agree. Kills before a process has begun to write count as well: they must do no harm.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.results import commit, hardware
from recipes.groups import CONFIGS

REPOSITORY = Path(__file__).resolve().parent.parent
KEPT = REPOSITORY / "docs" / "results" / "violence.json"
SHOWN = ("writing a checkpoint", "before a checkpoint", "after the last step")
SHORT = (
    "trainer.max_steps=40", "trainer.val_every=12", "trainer.log_every=5", "checkpoint.every_n_steps=3",
    "trainer.accelerator=cpu", "trainer.devices=1", "trainer.progress_bar=false", "data.batch_size=8",
)  # fmt: skip
OWN = {
    "crt": ("stages.classifier=['long_tail=[classifier_retraining,class_balanced_sampling]','trainer.max_steps=25']",),
    "lora_image": ("network.name=digits_cnn",),
    "multi_similarity": ("data.batch_size=16",),
}


def settings(recipe: str, folder: Path) -> list[str]:
    """The short command of a recipe: texts are of our own making, so that nothing has to be fetched."""
    text = (CONFIGS / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8")
    asked = [f"recipe={recipe}", *SHORT, *OWN.get(recipe, ())]
    if "override /data: trec" in text:
        labels = "label_column=[label,tone]" if "labels: both" in text else "label_column=label"
        asked += ["data=text_file", f"data.source.train_file={write_texts(folder)}", f"data.source.{labels}"]
        asked += ["network.name=roux_text_small", "network.pretrained=false", "data.text.vocab_size=200"]
        asked += ["~data.source.labels"] if "labels: both" in text else ["data.labels_per_class=8"]
    return asked


def write_texts(folder: Path) -> Path:
    """A small set of texts in three classes and two tones."""
    path, source = folder / "texts.csv", random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "tone"])
        for number in range(240):
            label, tone = ("news", "sport", "law")[number % 3], ("glad", "sad")[number % 2]
            words = source.sample(["about", "the", "a", "day", "of", "people", "in", "town", label, tone], 8)
            rows.writerow([" ".join([*words, label, tone]), label, tone])
    return path


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments, f"run_dir={folder}", "resume=auto"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(arguments: list[str], folder: Path) -> float:
    """Let a run end; returns its seconds. Raises RuntimeError with its words where it fails."""
    begun = time.monotonic()
    process = start(arguments, folder)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(said.decode(errors="replace").strip()[-500:])
    return time.monotonic() - begun


def first_output(arguments: list[str], folder: Path) -> float:
    """Seconds until a run writes, by one that is killed then."""
    begun = time.monotonic()
    process = start(arguments, folder)
    while process.poll() is None and not (folder / "config.yaml").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    return time.monotonic() - begun


def state(folder: Path) -> dict[str, Any]:
    """Everything a run ends with that must not depend on its interruptions."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.ckpt")):
        content = torch.load(path, map_location="cpu", weights_only=True)
        name = str(path.relative_to(folder))
        found |= {f"{name}: {part}": content[part] for part in ("state_dict", "optimizer_states", "lr_schedulers")}
        found[f"{name}: step"] = content["global_step"]
    for path in sorted(folder.rglob("metrics.csv")):
        found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
    for path in sorted([*folder.rglob("metrics.json"), *folder.rglob("stages.json")]):
        found[str(path.relative_to(folder))] = without_seconds(json.loads(path.read_text(encoding="utf-8")))
    return found


def without_seconds(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_seconds(value) for key, value in tree.items() if key != "train_seconds"}
    return tree


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def phase(folder: Path) -> str:
    """What the killed run was at, as far as its folder tells."""
    if any(folder.rglob(".*.part")):
        return "writing a checkpoint"
    if not any(folder.rglob("*.ckpt")):
        return "before a checkpoint"
    ended = any(folder.rglob("metrics.json"))
    return "after the last step" if ended and not (folder / "stages.json").exists() else "under way"


def violate(recipe: str, kills: int, source: random.Random, place: Path) -> dict[str, Any]:
    """Kill a recipe so many times; returns what was found."""
    arguments = settings(recipe, place)
    early = first_output(arguments, place / "early")
    seconds = finish(arguments, place / "whole")
    phases: list[str] = []
    for _ in range(kills):
        process = start(arguments, place / "killed")
        try:
            process.wait(source.uniform(0.9 * early, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            phases.append(phase(place / "killed"))
    finish(arguments, place / "killed")
    whole, killed = state(place / "whole"), state(place / "killed")
    differing = sorted(key for key in whole.keys() | killed.keys() if not same(whole.get(key), killed.get(key)))
    return {"seconds": round(seconds, 1), "kills": len(phases), "phases": phases, "differing": differing}


def page() -> str:
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    lines = ["| recipe | kills | writing a checkpoint | before one | after the last step | equal to the bit |"]
    lines.append("|---|---:|---:|---:|---:|---|")
    for recipe, found in kept["recipes"].items():
        counts = [found["phases"].count(phase) for phase in SHOWN]
        verdict = "yes" if not found["differing"] else f"**no**: {', '.join(found['differing'])}"
        lines.append(f"| `{recipe}` | {found['kills']} | {' | '.join(map(str, counts))} | {verdict} |")
    total = sum(found["kills"] for found in kept["recipes"].values())
    lines += ["", f"{total} kills. {kept['hardware']}; commit {kept['commit']}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="all of them where none is named")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="print the table of what is kept")
    given = parser.parse_args()
    if given.page:
        print(page(), end="")
        return
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {"recipes": {}}
    for recipe in given.recipes or sorted(path.stem for path in (CONFIGS / "recipe").glob("*.yaml")):
        with tempfile.TemporaryDirectory() as place:
            source = random.Random(f"{given.seed} {recipe}")
            kept["recipes"][recipe] = found = violate(recipe, given.kills, source, Path(place))
        kept |= {"hardware": hardware(), "commit": commit()}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(recipe, found, flush=True)


if __name__ == "__main__":
    main()
