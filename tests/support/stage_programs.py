"""Programs and callbacks for recipes of stages, and a process that dies once where a test says."""

import json
import os
import signal
from pathlib import Path
from typing import ClassVar, Literal

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from recipes.contract import Outcome, Program
from recipes.runs.reopened import reopen


def die_once(marker: str | None) -> None:
    """Kill this process, unless the marker says that it has been killed before."""
    if marker is None or Path(marker).exists():
        return
    Path(marker).touch()
    os.kill(os.getpid(), signal.SIGKILL)


class Note(Program):
    """Writes what it got and two random numbers; says stop from a round on."""

    artifacts: ClassVar = {"note": "note.json"}
    may_stop = True

    def __init__(
        self,
        run: str | None = None,
        runs: list[str] | None = None,
        number: int = 1,
        stop_at: int = 99,
        killed: str | None = None,
    ):
        self.given = {"run": run, "runs": runs, "number": number}
        self.stop_at = stop_at
        self.killed = killed

    def run(self, folder: Path, seed: int) -> Outcome:
        found = {path.name for path in folder.iterdir()}
        assert found == {"config.yaml", ".writing"}, "a killed call has left something"
        (folder / "half.txt").write_text("half")
        die_once(self.killed)
        draws = torch.rand(2).tolist()
        text = json.dumps({**self.given, "seed": seed, "draws": draws})
        (folder / "note.json").write_text(text)
        number = self.given["number"]
        return Outcome({"draw": draws[0]}, stop=number >= self.stop_at)


class Halve(Program):
    """The weights of a run, those of its heads halved."""

    artifacts: ClassVar = {"weights": "weights.safetensors"}

    def __init__(self, run: str):
        self.checkpoint = run

    def run(self, folder: Path, seed: int) -> Outcome:
        network = reopen(self.checkpoint).recipe.network
        state = {name: value.clone() for name, value in network.state_dict().items()}
        for name in state:
            if name.startswith("heads."):
                state[name] = state[name] / 2
        save_file(state, folder / "weights.safetensors")
        return Outcome()


class Forgetful(Program):
    """Does not write its artifact."""

    artifacts: ClassVar = {"note": "note.json"}

    def run(self, folder: Path, seed: int) -> Outcome:
        return Outcome()


class KillAt(pl.Callback):
    """Kills the process once, after a step or after the test."""

    def __init__(self, marker: str, at: Literal["step", "test"], step: int = 4):
        self.marker = marker
        self.at = at
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        if self.at == "step" and trainer.global_step == self.step:
            die_once(self.marker)

    def on_test_end(self, trainer, *_) -> None:
        if self.at == "test":
            die_once(self.marker)
