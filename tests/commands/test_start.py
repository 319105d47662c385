"""From the command to the first step: what is imported on the way. No times: benchmarks/speed/startup.py
has those."""

import subprocess
import sys

from tests.support.command import QUIET, REPOSITORY

RUN = """
import gc, sys
from recipes.runs.start import ready, start

spec = ready(sys.argv[1:])
from pytorch_lightning.callbacks import Callback

class Look(Callback):
    def on_train_batch_end(self, *args):
        print("LOADED", *sys.modules)
        print("COLLECTOR", gc.isenabled(), gc.get_freeze_count())

start(spec, callbacks=[Look()])
"""
# what no run can do without, and whatever these packages import by themselves
NEEDED = """
import sys
import hydra, pytorch_lightning, safetensors.torch, torch, torchmetrics
from pydantic import Field, TypeAdapter
print("LOADED", *sys.modules)
"""
OURS = {"datamodules", "foundation", "hydra_plugins", "methods", "recipes"}


def told(code: str, *arguments: str) -> dict[str, list[str]]:
    """What a process prints, by the first word of a line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {words[0]: words[1:] for line in done.stdout.splitlines() if (words := line.split())}


def packages(modules: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


def test_nothing_is_loaded_for_the_first_step_that_it_can_do_without(tmp_path):
    """timm with wandb, scikit-learn, a logger: what digits do not need. (torchmetrics, which
    Lightning imports, brings scipy, matplotlib, torchvision and transformers where they are
    installed.)"""
    run = told(RUN, *QUIET, "recipe=fixmatch", "trainer.max_steps=1", f"run_dir={tmp_path / 'run'}")
    assert packages(run["LOADED"]) - packages(told(NEEDED)["LOADED"]) <= OURS
    enabled, kept = run["COLLECTOR"]
    assert (
        enabled == "True" and int(kept) > 100_000
    )  # those of the imports: it would walk through them for a second
