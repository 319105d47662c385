"""The terminal: totals after a resume, lines where there is no terminal, the final table."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from recipes.loggers.console import RouxProgressBar, total_steps
from recipes.loggers.files import MetricsFiles
from recipes.loggers.final_table import final_table, print_final
from recipes.report.numbers import clock, headline, paired, value_text
from recipes.report.record import RunRecord
from recipes.runs.outputs import print_end


class Tiny(pl.LightningModule):
    """A linear model that hands its numbers to the loggers itself, as the recipe does."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        for logger in self.loggers:
            logger.log_metrics(
                {"train/loss": float(loss.detach())}, step=self.trainer.global_step + 1
            )
        return loss

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        for logger in self.loggers:
            logger.log_metrics(
                {"val/accuracy": 0.9, "val/raw/accuracy": 0.8}, step=self.trainer.global_step
            )

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def loader():
    return DataLoader(TensorDataset(torch.ones(64, 4)), batch_size=8)


def fit(folder, bar, steps, ckpt=None, resume_step=None):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        logger=MetricsFiles(folder, resume_step),
        callbacks=[bar],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.fit(Tiny(), loader(), loader(), ckpt_path=ckpt, weights_only=True)
    return trainer


def terminal(on):
    return Console(file=io.StringIO(), force_terminal=on, width=140, color_system=None, _environ={})


def test_lines_without_a_terminal_and_totals_after_a_resume(tmp_path):
    console = terminal(False)
    trainer = fit(tmp_path, RouxProgressBar(console=console), 8)
    lines = console.file.getvalue().splitlines()
    assert (
        len(lines) == 3
        and lines[0].startswith("step 4/8  loss ")
        and lines[-1].startswith("trained 8/8 steps in ")
    )
    assert (
        "accuracy 90.00 %  raw 80.00 %" in lines[0]
        and "steps/s  ETA " in lines[0]
        and "ETA" not in lines[1]
    )
    assert "\x1b" not in console.file.getvalue()

    trainer.save_checkpoint(tmp_path / "8.ckpt")
    console = terminal(False)
    fit(tmp_path, RouxProgressBar(console=console), 16, tmp_path / "8.ckpt", resume_step=8)
    lines = console.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["12/16", "16/16", "16/16"]


class Watched(RouxProgressBar):
    """Keeps what the bar showed at each redraw."""

    def _draw(self, trainer, force=False):
        super()._draw(trainer, force)
        if self._progress is not None and self._task is not None:
            task = self._progress.tasks[0]
            self.seen = [
                *getattr(self, "seen", []),
                (task.completed, task.total, task.fields["numbers"]),
            ]


def test_the_bar_counts_optimizer_steps_up_to_max_steps(tmp_path):
    console = terminal(True)
    bar = Watched(console=console)
    trainer = fit(tmp_path, bar, 8)
    assert (
        bar.seen[0][:2] == (0, 8)
        and bar.seen[-1][:2] == (8, 8)
        and "accuracy 90.00 %" in bar.seen[-1][2]
    )
    assert "8/8" in console.file.getvalue() and bar._progress is None, "the terminal is given back"
    trainer.save_checkpoint(tmp_path / "8.ckpt")
    bar = Watched(console=terminal(True))
    trainer = fit(tmp_path, bar, 16, tmp_path / "8.ckpt", resume_step=8)
    assert bar.seen[0][:2] == (8, 16) and bar.seen[-1][:2] == (16, 16)
    assert total_steps(trainer) == 16
    trainer.test(Tiny(), loader(), verbose=False)
    assert bar._progress is None


def test_a_disabled_bar_is_silent(tmp_path):
    console = terminal(False)
    bar = RouxProgressBar(console=console)
    bar.disable()
    fit(tmp_path, bar, 4)
    assert console.file.getvalue() == ""


def test_between_redraws_a_step_looks_at_nothing():
    bar = RouxProgressBar(every=1000, console=terminal(False))
    bar._every, bar.quiet_seconds = 1000, -1
    for i in range(999):
        bar.on_train_batch_end(None, None, None, None, i)
    with pytest.raises(AttributeError):  # the thousandth asks the trainer, and here there is none
        bar.on_train_batch_end(None, None, None, None, 999)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("test/accuracy", 0.96129, "96.13 %"),
        ("train_seconds", 125.2, "2 min 05 s"),
        ("peak_memory_bytes", 3.5 * 2**29, "1.75 GiB"),
        ("peak_memory_bytes", 300.2 * 2**20, "300 MiB"),
        ("val/accuracy_median20", 0.5, "50.00 %"),
        ("test/loss", 0.123456, "0.1235"),
        ("test/loss", float("nan"), "–"),
        ("test/loss", None, "–"),
    ],
)
def test_values_as_people_read_them(name, value, text):
    assert value_text(name, value) == text


def test_clocks():
    assert [clock(s) for s in (0.44, 9.96, 59.4, 60, 3599.6, 12000)] == [
        "0.4 s",
        "10 s",
        "59 s",
        "1 min 00 s",
        "1 h 00 min",
        "3 h 20 min",
    ]


FINAL = {
    "train/loss": 0.1,
    "train_seconds": 31.0,
    "val/accuracy": 0.9,
    "test/loss": 0.3,
    "test/raw/accuracy": 0.94,
    "test/accuracy": 0.96,
}


def test_the_table_has_test_first_and_raw_beside_averaged():
    assert [name for name, *_ in paired(FINAL)] == [
        "test/accuracy",
        "test/loss",
        "val/accuracy",
        "train/loss",
        "train_seconds",
    ]
    assert paired(FINAL)[0] == ("test/accuracy", 0.96, 0.94)
    console = Console(file=io.StringIO(), width=80, _environ={})
    print_final(FINAL, Path("outputs/[run]"), console, "averaged")
    text = console.file.getvalue()
    assert "outputs/[run]" in text and "averaged" in text and "\x1b" not in text
    row = next(line for line in text.splitlines() if "test/accuracy" in line)
    assert "96.00 %" in row and "94.00 %" in row
    assert [column.header for column in final_table({"test/accuracy": 0.5}).columns] == [
        "metric",
        "value",
    ]
    assert [column.header for column in final_table(FINAL).columns] == ["metric", "reported", "raw"]


def test_headline_falls_back_to_validation():
    assert [tile.name for tile in headline(FINAL)] == ["test · accuracy", "test · loss"]
    assert headline(FINAL)[0].beside == "raw: 94.00 %"
    assert [tile.name for tile in headline({"val/accuracy": 0.5})] == [
        "val · accuracy"
    ] and headline({}) == []


def test_the_headline_begins_with_the_monitored_metric():
    final = FINAL | {"test/recall@1": 0.7, "val/recall@1": 0.6}
    names = [tile.name for tile in headline(final, monitor="val/recall@1")]
    assert names == ["test · recall@1", "test · accuracy", "test · loss"]


def test_the_headline_has_further_sets():
    final = FINAL | {"sketch_test/accuracy": 0.25, "sketch_test/loss": 3.0, "a_val/accuracy": 0.1}
    names = [tile.name for tile in headline(final)]
    assert names == ["test · accuracy", "sketch test · accuracy", "test · loss"]
    first = headline(final, monitor="sketch_val/accuracy")[:2]
    assert {tile.name for tile in first} == {"test · accuracy", "sketch test · accuracy"}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_keeps_count_eta_and_headline_at_any_width(width, tmp_path, monkeypatch):
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, color_system=None, _environ={}
    )
    bar = RouxProgressBar(1, console)
    files = MetricsFiles(tmp_path)
    files.log_metrics({"train/loss": 0.31234, "val/accuracy": 0.9593, "val/raw/accuracy": 0.94}, 5)
    files.log_metrics({"val/loss": 0.21, "train/mask_rate": 0.61}, 6)
    module = SimpleNamespace(monitor="val/accuracy")
    trainer = SimpleNamespace(
        global_step=0, max_steps=20_000, loggers=[files], lightning_module=module
    )
    bar.on_train_start(trainer, module)
    trainer.global_step = 1200
    bar._started -= 30
    bar._draw(trainer, force=True)
    bar._close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    last = [line for line in plain.splitlines() if "1200/20000" in line][-1]
    assert "accuracy 95.93 %" in last and "ETA 7 min" in last
    assert last.index("1200/20000") - len("training ") >= (10 if width >= 80 else 4)
    assert len(last.rstrip()) <= width and ("loss 0.3123" in last) == (width >= 120)


def test_time_and_memory_are_no_rows_and_the_headline_is_the_first():
    final = {"val/recall@1": 0.9, "test/nmi": 0.5, "test/recall@1": 0.8, "train_seconds": 23.0}
    final["peak_memory_bytes"] = 2.0**30
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_final(final, console=console, monitor="val/recall@1")
    lines = console.file.getvalue().splitlines()
    assert "test/recall@1" in lines[3]
    assert lines[-1].strip() == "train time 23 s, peak memory 1.00 GiB"


def test_the_last_line_of_a_run_is_the_path_of_its_page(capsys):
    print_end(RunRecord("t", final={"test/accuracy": 0.5}), Path("outputs/x"))
    assert capsys.readouterr().out.splitlines()[-1] == "report: outputs/x/report.html"
