"""Weights & Biases: metrics on one step axis, config, plan, figures, the checkpoint, and a run id
that survives resume.

Offline every step of a resumed run is there once, also where it was killed: what the files of the
killed process hold already is not logged again, and what they have lost is taken from metrics.csv.
Online W&B answers for its own: steps after the last checkpoint are sent again.

Lightning's own logger keeps a second counter, `trainer/global_step`, refuses checkpoints offline
(wandb records them, and `wandb sync` uploads them later), sets `WANDB_MODE` for the whole process
and never ends the run, so that the next run of a sweep would write into it. This one differs in
these four points.
"""

import html
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.errors import UserError
from foundation.files import jsonable, write_text
from recipes.loggers.files import read_rows, scalars
from recipes.loggers.wandb_log import held
from recipes.report.record import RunRecord, ViewRow


class WeightsAndBiases:
    """Metrics, config, plan, figures and checkpoint for Weights & Biases, `logger=wandb`.

    project: project of the run, as in wandb.init.
    entity: user or team; null: the default of your key.
    name: name of the run; null: drawn by wandb.
    group: group of the run; null: none.
    tags: tags of the run, e.g. [fixmatch,digits]; null: none.
    notes: notes of the run; null: none.
    mode: `online`, `offline` or `disabled`; null: as WANDB_MODE says, else online. `wandb sync`
        uploads offline runs later.
    checkpoint: checkpoint that becomes an artifact: `best`, `last` or `none`. Without a best one
        the last one is taken.
    plots: log the report's figures and views as media at the end; true.
    """

    def __init__(
        self,
        project: str = "roux",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        checkpoint: Literal["best", "last", "none"] = "best",
        plots: bool = True,
    ):
        self.init = {
            "project": project,
            "entity": entity,
            "name": name,
            "group": group,
            "notes": notes,
            "mode": mode,
        }
        self.init["tags"] = list(tags) if tags else None  # type: ignore[assignment]
        self.checkpoint = checkpoint
        self.plots = plots

    def open(self, run_dir: str | Path, resume_step: int | None = None) -> "WeightsAndBiasesRun":
        return WeightsAndBiasesRun(run_dir, self, resume_step)


class WeightsAndBiasesRun(WandbLogger):
    """One wandb run, begun at the first use of `experiment`, ended by `close` or by a failure.

    Its id lies in `run_dir/wandb_id`; where that file exists the run is continued. Raises
    `UserError` where wandb cannot begin a run.
    """

    def __init__(
        self, run_dir: str | Path, settings: WeightsAndBiases, resume_step: int | None = None
    ):
        self.run_dir = Path(run_dir)
        self.settings = settings
        self.last_step = resume_step or 0
        self._held: dict[int, set[str]] = {}
        super().__init__(save_dir=run_dir, id=self._stored_id(), **settings.init)  # type: ignore[arg-type]
        self._wandb_init.pop("anonymous", None)  # wandb warns of it

    def _stored_id(self) -> str | None:
        path = self.run_dir / "wandb_id"
        return (
            path.read_text(encoding="utf-8").strip() or None
            if path.is_file()
            else os.environ.get("WANDB_RUN_ID")
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run."""
        if self._experiment is None:
            import wandb

            self.run_dir.mkdir(parents=True, exist_ok=True)
            try:
                self._experiment = run = wandb.init(**self._wandb_init)
            except wandb.errors.Error as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"logger=wandb: {reason} (`wandb login` sets a key; logger.wandb.mode=offline "
                    "needs none)"
                ) from error
            write_text(self.run_dir / "wandb_id", run.id + "\n")
            run.define_metric("step", hidden=True)
            run.define_metric("*", step_metric="step", step_sync=True)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.last_step = self.last_step if step is None else step
        known = self._held.get(self.last_step, ())
        values = {name: value for name, value in scalars(metrics).items() if name not in known}
        if values:
            self.experiment.log({**values, "step": self.last_step})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `start` sends the whole config."""

    @rank_zero_only
    def start(self, config: Mapping[str, Any], plan: str) -> None:
        """Config, and the plan as text that keeps its columns; before them what a killed process
        has lost."""
        import wandb

        self._make_up()
        self.experiment.config.update(jsonable(dict(config)), allow_val_change=True)
        page = wandb.Html(f"<pre>{html.escape(plan)}</pre>", inject=False)
        self.experiment.log({"plan": page, "step": self.last_step})

    def _make_up(self) -> None:
        """Find out what earlier offline files hold, and log what they lack of the steps before the
        checkpoint."""
        run = self.experiment
        done = self.last_step
        own = Path(run.dir).parent
        # the files carry the id alone: a folder begun in the second of another ends with a number
        # after it
        earlier = [
            p for p in own.parent.glob(f"offline-run-*/run-{run.id}.wandb") if p.parent != own
        ]
        if not (done and run.offline and earlier):
            return
        self._held = held(earlier)
        for row in read_rows(self.run_dir / "metrics.csv"):
            if row["step"] <= done:
                self.log_metrics(row, row["step"])
        self.last_step = done

    @rank_zero_only
    def finish(self, record: RunRecord, checkpoints: Mapping[str, str | Path]) -> None:
        """Final values into the summary, figures and views as media, the checkpoint as an
        artifact."""
        import wandb

        run = self.experiment
        if self.settings.plots:
            from PIL import Image

            from recipes.report.figures import figures_png

            pictures = {
                name: Image.open(io.BytesIO(picture))
                for name, picture in figures_png(record).items()
            }
            media: dict[str, Any] = {
                f"report/{name}": wandb.Image(picture) for name, picture in pictures.items()
            }
            texts = [row for row in record.views if row.kind == "text"]
            if texts:
                media["report/views"] = _text_table(texts)
            run.log({**media, "step": self.last_step})
        run.summary.update(jsonable(record.final))
        self._log_checkpoint(checkpoints, record)

    def _log_checkpoint(self, checkpoints: Mapping[str, str | Path], record: RunRecord) -> None:
        import wandb

        wish = self.settings.checkpoint
        kind = wish if wish in checkpoints else "last"
        if wish == "none" or kind not in checkpoints:
            return
        run = self.experiment
        artifact = wandb.Artifact(
            f"model-{run.id}", type="model", metadata=jsonable({"kind": kind, **record.final})
        )
        # offline the file may be uploaded long after a resumed run has replaced it: only then a
        # copy is worth its space
        artifact.add_file(
            str(checkpoints[kind]),
            name="model.ckpt",
            policy="mutable" if run.offline else "immutable",
        )
        run.log_artifact(artifact, aliases=["latest", kind])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning calls this after every fit and test: only a failure ends the run here, `close`
        ends the others."""
        if status == "failed":
            self._end(exit_code=1)

    @rank_zero_only
    def close(self) -> None:
        """End the run, so that everything is on disk or uploaded and the next run of a sweep begins
        its own."""
        self._end(exit_code=0)

    def _end(self, exit_code: int) -> None:
        if self._experiment is not None:
            self._id = self._wandb_init["id"] = self._experiment.id
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def _text_table(rows: list[ViewRow]) -> Any:
    import wandb

    columns: list[str | int] = ["weak", "strong", "pseudo_label", "confidence", "true", "kept"]
    return wandb.Table(
        columns=columns, data=[[getattr(row, str(name)) for name in columns] for row in rows]
    )
