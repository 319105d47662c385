"""Profilers: by name into the run's folder, by target, and what is none."""

import pytest
from pytorch_lightning.profilers import SimpleProfiler

from foundation.errors import UserError
from recipes.engine.lean import NoProfiler
from recipes.engine.trainer import TrainerSettings
from recipes.runs.lightning import profiler_of
from recipes.runs.start import ready, start

RUN = [
    "data=digits",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
]


def test_a_profiler_by_name_writes_into_the_run(tmp_path):
    start(ready([*RUN, "trainer.profiler=simple", f"run_dir={tmp_path / 'run'}"]))
    text = (tmp_path / "run" / "profile" / "fit-simple.txt").read_text()
    assert "run_training_batch" in text


def test_a_profiler_by_target(tmp_path):
    target = "{_target_: pytorch_lightning.profilers.SimpleProfiler}"
    found = ready([*RUN, f"trainer.profiler={target}", f"run_dir={tmp_path / 'run'}"])
    start(found)
    own = SimpleProfiler()
    assert profiler_of(TrainerSettings(profiler=own), tmp_path) is own
    assert isinstance(profiler_of(TrainerSettings(), tmp_path), NoProfiler)


@pytest.mark.parametrize(
    ("profiler", "message"),
    [({"name": "simple"}, "expected a mapping with the _target_"), (3, "makes a int; expected a")],
)
def test_what_is_none_is_refused(profiler, message, tmp_path):
    with pytest.raises(UserError, match=rf"trainer\.profiler: .*{message}"):
        profiler_of(TrainerSettings(profiler=profiler), tmp_path)
