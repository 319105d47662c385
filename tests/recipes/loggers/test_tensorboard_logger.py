"""TensorBoard's event files, read back by TensorBoard."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recipes.loggers.build import build_loggers, finish_loggers, start_loggers
from tests.support.example_record import digits_record

NODE = {"_target_": "recipes.loggers.tensorboard.TensorBoard"}


def log(run_dir, steps, resume_step=None, plots=True):
    loggers = build_loggers({"tensorboard": {**NODE, "plots": plots}}, run_dir, resume_step)
    start_loggers(loggers, {"seed": 3}, "order  fixmatch")
    for step in steps:
        for logger in loggers:
            logger.log_metrics({"train/loss": 1 / step, "epoch": 0}, step=step)
            logger.save()
    finish_loggers(loggers, digits_record(), {})


def test_curves_text_figures_and_resume(tmp_path):
    log(tmp_path, (10, 20, 30))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("train/loss")] == [
        (10, 0.1),
        (20, 0.05),
        (30, 0.033333),
    ]
    tags = events.Tags()
    assert "epoch" not in tags["scalars"] and "final/test/accuracy" in tags["scalars"]
    assert {"report/learning_curves", "report/confusion/label", "report/views"} <= set(
        tags["images"]
    )
    assert events.Images("report/learning_curves")[0].step == 30
    text = events.Tensors("plan/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    order  fixmatch\n"

    log(tmp_path, (30, 40), resume_step=20, plots=False)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30, 40]
