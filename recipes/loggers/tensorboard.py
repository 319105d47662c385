"""TensorBoard: metrics during the run; figures, views and a row of the HPARAMS tab at its end."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.attempts import Attempts
from foundation.errors import UserError
from foundation.files import jsonable, os_reason
from recipes.loggers.files import scalars
from recipes.report.record import RunRecord


class TensorBoard:
    """Metrics, figures and config for TensorBoard, `logger=tensorboard`; event files are in
    `run_dir/tensorboard`.

    flush_seconds: longest time before events are written to disk, in seconds, above 0; 30.
    plots: log the report's figures at the end; true.
    """

    def __init__(self, flush_seconds: Annotated[int, Field(gt=0)] = 30, plots: bool = True):
        self.flush_seconds = flush_seconds
        self.plots = plots

    def open(self, run_dir: str | Path, resume_step: int | None = None) -> "TensorBoardRun":
        return TensorBoardRun(run_dir, self, resume_step)


class TensorBoardRun(TensorBoardLogger):
    """Lightning's logger with a fixed folder. A resumed run purges the events of later steps,
    because it logs them again."""

    def __init__(self, run_dir: str | Path, settings: TensorBoard, resume_step: int | None = None):
        purge = None if resume_step is None else resume_step + 1
        super().__init__(
            save_dir=run_dir,
            name="",
            version="tensorboard",
            default_hp_metric=False,
            flush_secs=settings.flush_seconds,
            purge_step=purge,
        )
        self.settings = settings
        self.config: dict[str, Any] = {}
        self.last_step = resume_step or 0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.last_step = self.last_step if step is None else max(step, self.last_step)
        super().log_metrics(scalars(metrics), self.last_step if step is None else step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `start` writes the config, and `finish` the row of the HPARAMS tab."""

    @rank_zero_only
    def save(self) -> None:
        """Does nothing: the writer flushes by itself, and the run writes config.yaml."""

    @rank_zero_only
    def start(self, config: Mapping[str, Any], plan: str) -> None:
        """Log config and plan as text."""
        from omegaconf import OmegaConf

        self.config = jsonable(dict(config))
        yaml = OmegaConf.to_yaml(OmegaConf.create(self.config))
        try:
            self.experiment.add_text("config", _block(yaml), self.last_step)
        except OSError as error:
            problem = f"its folder '{self.log_dir}' cannot be made ({os_reason(error)})"
            raise UserError("logger=tensorboard", problem, "expected a writable folder") from error
        self.experiment.add_text("plan", _block(plan), self.last_step)

    @rank_zero_only
    def finish(self, record: RunRecord, checkpoints: Mapping[str, str | Path]) -> list[str]:
        """Log figures as images, and config and final metrics for the HPARAMS tab. Returns a line
        for each part that failed."""
        attempts = Attempts()
        if self.settings.plots:
            from PIL import Image

            from recipes.report.figures import figures_png

            for name, picture in figures_png(record, attempts).items():
                pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
                self.experiment.add_image(
                    f"report/{name}", pixels, self.last_step, dataformats="HWC"
                )
        metrics = {f"final/{name}": value for name, value in record.final.items()}
        TensorBoardLogger.log_hyperparams(self, self.config, metrics)
        self.experiment.flush()
        return attempts.lost

    @rank_zero_only
    def close(self) -> None:
        """Flush and close the event file, if one is open."""
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None


def _block(text: str) -> str:
    """Text as a Markdown code block, in which TensorBoard preserves line breaks."""
    return "".join(f"    {line}\n" for line in text.splitlines())
