"""Steps under torch's sync debug mode on a GPU: none of them makes the host wait for the device.

    pytest -m slow -n 0 tests/conformance/test_waiting_on_gpu.py

Each method trains some steps under the settings of the trials here. After the first two, which
compile, choose algorithms and fill caches, every operation of a step that synchronises is noted
with the line of ours that called it; the transfer at the end of a logging interval is allowed.
`test_waiting.py` looks for the same calls without a GPU.
"""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.engine.recipe import Recipe
from tests.support.lab import trial
from tests.support.tiny_runs import method_and_kind, run_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU is waited for"),
]
ROOT = Path(__file__).parents[2]
FIRST, STEPS = 2, 6  # steps that may wait, steps in all
CHANGES = {
    "trainer.accelerator": "gpu",
    "trainer.precision": "auto",
    "trainer.max_steps": STEPS,
    "trainer.val_every": STEPS,
    "trainer.log_every": 2,
}


@contextmanager
def noting(found: set[str]) -> Iterator[None]:
    """Keep the places at which the debug mode speaks."""

    def note(message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchroniz" not in str(message):
            return
        files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_stack()]
        ours = [f"{file.relative_to(ROOT)}:{n}" for file, n in files if file.is_relative_to(ROOT)]
        found.add(
            ([place for place in ours if not place.startswith("tests/")] or ["elsewhere"])[-1]
        )

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def waits(monkeypatch) -> set[str]:
    """Where steps wait; publishing may."""
    found: set[str] = set()
    step, publish = Recipe.optimizer_step, Recipe.publish

    def watched(self: Recipe, *args: Any, **kwargs: Any) -> None:
        if self.trainer.global_step < FIRST:
            step(self, *args, **kwargs)
            return
        with noting(found):
            step(self, *args, **kwargs)

    def unwatched(self: Recipe, *args: Any) -> None:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        publish(self, *args)
        torch.cuda.set_sync_debug_mode(mode)

    monkeypatch.setattr(Recipe, "optimizer_step", watched)
    monkeypatch.setattr(Recipe, "publish", unwatched)
    return found


@pytest.mark.parametrize(("key", "kind"), method_and_kind())
def test_no_step_waits(key, kind, waits):
    trial(run_of(kind, key, **CHANGES))
    assert waits == set()


def test_a_step_that_waits_is_seen(waits, monkeypatch):
    step = Recipe.training_step

    def waiting(self: Recipe, *batch: Any) -> Any:
        loss = step(self, *batch)
        loss.item()
        return loss

    monkeypatch.setattr(Recipe, "training_step", waiting)
    trial(run_of("image", **CHANGES))
    assert waits
