"""Callbacks of the user's, by config: they run, are checked before the run, and predict needs none."""

import pytest
from pytorch_lightning.callbacks import Callback

import recipes
from foundation.errors import UserError
from recipes.runs.start import ready, start

RUN = [
    "data=digits",
    "trainer.max_steps=4",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
]
HERE = "tests.recipes.runs.test_user_callbacks"
seen = []


class Counter(Callback):
    def __init__(self, name: str = "x"):
        self.name = name

    def on_train_batch_end(self, trainer, *_):
        seen.append((self.name, trainer.global_step))


def test_a_callback_of_the_user_runs(tmp_path):
    seen.clear()
    folder = tmp_path / "run"
    named = f"callbacks={{count: {{_target_: {HERE}.Counter, name: y}}}}"
    start(ready([*RUN, named, f"run_dir={folder}"]))
    assert seen == [("y", step) for step in range(1, 5)]
    # a folder that names foreign code for training is still read
    assert recipes.load(folder).classes


def test_one_of_lightnings(tmp_path):
    rate = "callbacks={rate: {_target_: pytorch_lightning.callbacks.LearningRateMonitor}}"
    metrics = start(ready([*RUN, rate, f"run_dir={tmp_path / 'run'}"])).metrics
    assert "test/accuracy" in metrics


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "callbacks={a: {_target_: torch.nn.Linear, in_features: 1, out_features: 1}}",
            "is no Callback",
        ),
        ("callbacks={a: 3}", r"callbacks\.a"),
        ("callbacks=3", "callbacks: got 3, expected a mapping"),
        (
            f"callbacks={{a: {{_target_: {HERE}.Counter, nam: y}}}}",
            r"callbacks\.a\.nam: unknown key",
        ),
    ],
)
def test_what_is_no_callback_is_one_line(override, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        start(ready([*RUN, override, f"run_dir={tmp_path / 'run'}"]))
    assert "\n" not in str(caught.value)
