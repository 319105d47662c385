"""Console output of a run under way: a progress bar on a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from recipes.loggers.build import metrics_files
from recipes.report.numbers import (
    clock,
    value_text,
)

SHOWN = (
    ("train/loss", "loss"),
    ("val/accuracy", "accuracy"),
    ("val/raw/accuracy", "raw"),
    ("val/recall@1", "recall@1"),
    ("val/loss", "val loss"),
    ("train/mask_rate", "mask"),
)
SPEED, ETA = "speed", "ETA"
BAR, SHORT_BAR = 10, 4  # columns that numbers leave to the bar; below 80 columns the second


class RouxProgressBar(ProgressBar):
    """Progress of training in optimizer steps, from 0 to `max_steps`, also after a resume.

    On a terminal a bar, beside which stand as many numbers as fit: ETA and the monitored metric
    first. Elsewhere one line per validation, and one line per `quiet_seconds` where
    validations are rare. The metrics shown are those that `MetricsFiles` has on the host: the bar
    causes no transfer from the device, and a micro-batch between redraws costs one comparison.

    every: micro-batches between redraws, which are at least 0.1 s apart; None: the trainer's
        `log_every_n_steps`.
    console: None: stdout.
    quiet_seconds: longest time without a line, in seconds.
    """

    def __init__(
        self, every: int | None = None, console: Console | None = None, quiet_seconds: float = 60.0
    ):
        super().__init__()
        self.console = console or Console(file=sys.stdout)
        self.every = every
        self._every = every or 1
        self.quiet_seconds = quiet_seconds
        self._enabled = True
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._side: TaskID | None = None
        self._started = 0.0
        self._last_line = 0.0
        self._last_redraw = 0.0
        self._first = 0
        self._total = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line above the bar."""
        if self._enabled:
            self.console.print(*args, **kwargs, markup=False, highlight=False)

    # -- training ----------------------------------------------------------------------------------
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._every = self.every or max(getattr(trainer, "log_every_n_steps", 1), 1)
        self._started = time.monotonic()
        self._last_line = self._started
        self._first = trainer.global_step
        self._total = total_steps(trainer)
        if self._enabled and self.console.is_terminal:
            self._open()
            assert self._progress is not None
            self._task = self._progress.add_task(
                "training", total=self._total or None, completed=self._first, numbers=""
            )
            self._draw(trainer, force=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self._every or not self._enabled:
            return
        if self._progress is not None:
            self._draw(trainer)
        elif time.monotonic() - self._last_line > self.quiet_seconds:
            self._print_line(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None:
            self._draw(trainer, force=True)
            self._close()
        elif self._enabled:
            steps = trainer.global_step
            duration = clock(time.monotonic() - self._started)
            self.print(f"trained {steps}/{self._total or steps} steps in {duration}")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    # -- evaluation --------------------------------------------------------------------------------
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._side_start("validation", sum(map(_finite, trainer.num_val_batches)))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._side_advance()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._side_end()
        if trainer.sanity_checking or not self._enabled:
            return
        if self._progress is not None and self._task is not None:
            self._draw(trainer, force=True)
        elif self._progress is None and trainer.state.fn == TrainerFn.FITTING:
            self._print_line(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and self.console.is_terminal:
            self._open()
        self._side_start("test", sum(map(_finite, trainer.num_test_batches)))

    on_test_batch_end = on_validation_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._side_end()
        if self._task is None:
            self._close()

    # -- the bar -----------------------------------------------------------------------------------
    def _open(self) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=None, table_column=Column(ratio=1)),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TextColumn(
                    "{task.fields[numbers]}", markup=False, table_column=Column(no_wrap=True)
                ),
                console=self.console,
                auto_refresh=False,  # a refresh thread would compete with training
                expand=True,
            )
            self._progress.start()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = self._side = None

    def _draw(self, trainer: Trainer, force: bool = False) -> None:
        if self._progress is None or self._task is None or not (force or self._redraw_due()):
            return
        self._last_redraw = time.monotonic()
        count = f"{self._total}/{self._total}"
        bar = BAR if self.console.width >= 80 else SHORT_BAR
        taken = len("validation") + bar + len(count) + 3  # a space between columns
        numbers = self._text(trainer, self.console.width - taken)
        self._progress.update(self._task, completed=trainer.global_step, numbers=numbers)
        self._progress.refresh()

    def _redraw_due(self) -> bool:
        return time.monotonic() - self._last_redraw >= 0.1

    def _side_start(self, name: str, total: int) -> None:
        if self._progress is not None and total > 0:
            self._side = self._progress.add_task(name, total=total, numbers="")

    def _side_advance(self) -> None:
        if self._progress is None or self._side is None:
            return
        self._progress.advance(self._side)
        if self._redraw_due():
            self._last_redraw = time.monotonic()
            self._progress.refresh()

    def _side_end(self) -> None:
        if self._progress is not None and self._side is not None:
            self._progress.remove_task(self._side)
            self._progress.refresh()
        self._side = None

    # -- lines -------------------------------------------------------------------------------------
    def _print_line(self, trainer: Trainer) -> None:
        self._last_line = time.monotonic()
        line = f"step {trainer.global_step}/{self._total or '?'}  {self._text(trainer)}"
        self.print(line, soft_wrap=True)

    def _text(self, trainer: Trainer, width: int | None = None) -> str:
        """`loss 0.31  accuracy 95.93 %  41.3 steps/s  ETA 12 s`, what fits into the width."""
        files = metrics_files(trainer.loggers)
        latest: Mapping[str, float] = files.latest if files is not None else {}
        monitor = str(getattr(trainer.lightning_module, "monitor", None) or "val/accuracy")
        parts: dict[str, str] = {}
        for name, label in shown_metrics(monitor):
            if name in latest:
                parts[name] = f"{label} {value_text(name, latest[name])}"
        done = trainer.global_step - self._first
        seconds = time.monotonic() - self._started
        if done > 0 and seconds > 0:
            parts[SPEED] = f"{done / seconds:.1f} steps/s"
            left = self._total - trainer.global_step
            if left > 0:
                parts[ETA] = f"ETA {clock(left * seconds / done)}"
        if width is not None:
            parts = fitting(parts, (ETA, monitor, SPEED, *parts), width)
        return "  ".join(parts.values())


def shown_metrics(monitor: str) -> list[tuple[str, str]]:
    """Names of the metrics beside the bar and their labels, the monitored one among them."""
    if monitor in dict(SHOWN):
        return list(SHOWN)
    return [SHOWN[0], (monitor, monitor.rpartition("/")[2]), *SHOWN[1:]]


def fitting(parts: Mapping[str, str], ranked: Iterable[str], width: int) -> dict[str, str]:
    """The parts in their order that fit into a line of this width, those of the first ranks
    first."""
    kept: set[str] = set()
    free = width + 2
    for name in dict.fromkeys(ranked):
        if name in parts and len(parts[name]) + 2 <= free:
            free -= len(parts[name]) + 2
            kept.add(name)
    return {name: text for name, text in parts.items() if name in kept}


def _finite(batches: float) -> int:
    return 0 if batches == float("inf") else int(batches)


def total_steps(trainer: Trainer) -> int:
    """Optimizer steps of the run: `max_steps`, or those of `max_epochs`; 0 where unlimited."""
    if trainer.max_steps > 0:
        return trainer.max_steps
    estimate = trainer.estimated_stepping_batches
    return 0 if estimate == float("inf") else int(estimate)
