"""Early stopping: counted over validations, continued by a resume, refused where it cannot work."""

from types import SimpleNamespace

import pytest

from foundation.errors import UserError
from recipes.runs.start import ready, start
from recipes.setup.patience import Patience, patience_of

RUN = [
    "data=digits",
    "trainer.val_every=5",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "optimizer.lr=1e-12",  # nothing is learned
    "scheduler=constant",
]


def told(callback, values, first_step=10, max_steps=1000):
    """The validations after which the callback asked to stop."""
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        global_step=first_step,
        max_steps=max_steps,
        strategy=SimpleNamespace(broadcast=lambda value: value),
        should_stop=False,
        is_global_zero=True,
    )
    for number, value in enumerate(values):
        trainer.callback_metrics = {callback.monitor: value}
        callback.on_validation_end(trainer, None)
        if trainer.should_stop:
            return number
        trainer.global_step += 10
    return None


def test_validations_are_counted_from_the_best_one():
    assert told(Patience("val/accuracy", 2), [0.1, 0.3, 0.2, 0.4, 0.4, 0.3, 0.9]) == 5
    assert told(Patience("val/loss", 2), [3.0, 1.0, 2.0, 0.5, 0.6, 0.7]) == 5
    assert told(Patience("val/accuracy", 1), [0.1, 0.2, 0.3]) is None
    assert told(Patience("val/accuracy", 1), [0.1, float("nan")]) == 1
    # the last step ends the run anyway
    assert told(Patience("val/accuracy", 1), [0.2, 0.1], max_steps=20) is None


def test_its_state_is_that_of_the_checkpoint():
    callback = Patience("val/loss", 3)
    told(callback, [1.0, 2.0])
    other = Patience("val/loss", 3)
    other.load_state_dict(callback.state_dict())
    assert told(other, [2.0, 3.0]) == 1


def test_a_run_that_learns_nothing_ends_early(tmp_path, caplog):
    command = [*RUN, "trainer.patience=2", "trainer.max_steps=60", f"run_dir={tmp_path / 'run'}"]
    metrics = start(ready(command)).metrics
    assert "test/accuracy" in metrics
    (line,) = [r.getMessage() for r in caplog.records if "stopped at step" in r.getMessage()]
    assert line.startswith("stopped at step 15 of 60: val/accuracy has not been above its best")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_what_cannot_stop_early_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"trainer\.patience=3: there is no validation part"):
        patience_of(3, "val/accuracy", validates=False)
    command = [*RUN, "trainer.patience=2", "recipe=long_tail", "long_tail=tau_norm"]
    with pytest.raises(UserError, match=r"trainer\.patience=2: methods\.tau_norm works after"):
        start(ready([*command, f"run_dir={tmp_path / 'run'}"]))
