"""Every recipe is killed by SIGKILL at random moments and resumed, and ends bit-identical to a run
that nobody disturbed.

    pytest -m slow -n 0 tests/conformance/test_kill_every_recipe.py
    pytest -m slow -n 0 tests/conformance/test_kill_every_recipe.py -k fixmatch --write-numbers

The second keeps the table of docs/reliability.md. A recipe is trained for a few steps and left
alone, then trained again with `resume=auto` and killed at moments drawn evenly from the time that
the first run took after it had begun to write, its last report left out. Where a run comes to its
end before its kill it is compared, and another one is begun.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from recipes.config.groups import CONFIGS
from tests.support import reliability_numbers
from tests.support.killed_runs import at, begin, differences, finish, state
from tests.support.tiny_runs import text_file

pytestmark = pytest.mark.slow
KILLS, SEED = 4, 0
RECIPES = sorted(path.stem for path in (CONFIGS / "recipe").glob("*.yaml"))
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
CRT = "'long_tail=[crt,class_balanced_sampling]','trainer.max_steps=80'"
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


def killed(recipe: str, source: random.Random, place: Path) -> dict[str, Any]:
    """Kill a recipe several times; what it was at then, and what differs at its end."""
    arguments = settings(recipe)
    seconds = finish(arguments, place / "whole")
    whole = state(place / "whole")
    phases: list[str] = []
    differing: set[str] = set()
    run = 0
    while len(phases) < KILLS:
        folder = place / f"killed{run}"
        process = begin(arguments, folder)
        process.join(source.uniform(0, seconds))
        if process.is_alive():
            process.kill()
            process.join()
            phases.append(at(folder))
        if len(phases) == KILLS or process.exitcode == 0:
            finish(arguments, folder)
            differing |= differences(whole, state(folder))
            run += 1
    found = {"seconds": round(seconds, 1), "kills": len(phases), "phases": phases}
    return {**found, "differing": sorted(differing)}


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_and_resumed(recipe, tmp_path, request):
    found = killed(recipe, random.Random(f"{SEED} {recipe}"), tmp_path)
    if request.config.getoption("--write-numbers"):
        reliability_numbers.keep_kills(recipe, found)
    assert found["differing"] == [], f"killed in {found['phases']}"
