"""Weights & Biases: metrics on one step axis, config, plan, figures, the checkpoint, and a run id
that survives resume.

Offline, a resumed run has every step exactly once, even after a kill: steps in the files of the
killed process are not logged again, and steps missing there are read from metrics.csv. Online,
steps after the last checkpoint are sent again, and W&B decides which to keep.

Lightning's logger has a second step counter `trainer/global_step`, rejects checkpoints offline
(wandb records them, and `wandb sync` uploads them later), sets `WANDB_MODE` for the whole process,
and does not end the run, so that the next run of a sweep would write into it. This logger differs
in these four points.
"""

import hashlib
import html
import io
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from foundation.attempts import Attempts
from foundation.errors import UserError, first_line
from foundation.files import jsonable, os_reason, write_text
from recipes.loggers.files import read_rows, scalars
from recipes.loggers.wandb_log import logged_names
from recipes.report.numbers import lower_is_better
from recipes.report.record import RunRecord, ViewRow


class WeightsAndBiases:
    """Metrics, config, plan, figures and checkpoint for Weights & Biases, `logger=wandb`.

    project: project of the run, as in wandb.init.
    entity: user or team; null: the default of your key.
    name: name of the run; null: recipe, data and seed, fixmatch-digits-0.
    group: group of the run; null: one for all seeds of a configuration.
    tags: tags of the run, e.g. [fixmatch,digits]; null: recipe, data, families and methods.
    notes: notes of the run; null: none.
    mode: `online`, `offline` or `disabled`; null: the value of WANDB_MODE, else online. `wandb
        sync` uploads offline runs later.
    checkpoint: checkpoint to log as an artifact: `best`, `last` or `none`. A run without a best
        checkpoint logs the last one.
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
    """One wandb run, started at the first use of `experiment`, ended by `close` or by a failure.

    Its id is in `run_dir/wandb_id`; where that file exists, the run is resumed. Raises `UserError`
    where wandb cannot start a run.
    """

    def __init__(
        self, run_dir: str | Path, settings: WeightsAndBiases, resume_step: int | None = None
    ):
        self.run_dir = Path(run_dir)
        self.settings = settings
        self.last_step = resume_step or 0
        self._logged: dict[int, set[str]] = {}  # names in earlier offline files, by step
        super().__init__(save_dir=run_dir, id=self._stored_id(), **settings.init)  # type: ignore[arg-type]
        self._wandb_init.pop("anonymous", None)  # deprecated: wandb warns

    def _stored_id(self) -> str | None:
        path = self.run_dir / "wandb_id"
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8").strip() or None
            except (OSError, UnicodeDecodeError) as error:
                problem = f"'{path}' cannot be read ({first_line(error)})"
                raise UserError("logger=wandb", problem, "expected the id of a run") from error
        return os.environ.get("WANDB_RUN_ID")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run."""
        if self._experiment is None:
            import wandb

            try:
                self.run_dir.mkdir(parents=True, exist_ok=True)
                self._experiment = run = wandb.init(**self._wandb_init)
            except OSError as error:
                problem = f"its folder in '{self.run_dir}' cannot be made ({os_reason(error)})"
                raise UserError("logger=wandb", problem, "expected a writable folder") from error
            except wandb.errors.Error as error:
                reason = " ".join(str(error).split())
                hint = "`wandb login` sets a key; logger.wandb.mode=offline needs none"
                raise UserError("logger=wandb", f"{reason} ({hint})") from error
            write_text(self.run_dir / "wandb_id", run.id + "\n")
            run.define_metric("step", hidden=True)
            run.define_metric("*", step_metric="step", step_sync=True)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.last_step = self.last_step if step is None else step
        known = self._logged.get(self.last_step, ())
        values = {name: value for name, value in scalars(metrics).items() if name not in known}
        if values:
            self.experiment.log({**values, "step": self.last_step})

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: `start` logs the whole config."""

    @rank_zero_only
    def start(self, config: Mapping[str, Any], plan: str) -> None:
        """Log config and plan; before them, the steps that a killed process has lost."""
        import wandb

        for key, value in labels(config).items():
            if self._wandb_init.get(key) is None:
                self._wandb_init[key] = value
        self._log_lost_steps()
        self.experiment.config.update(jsonable(dict(config)), allow_val_change=True)
        # preformatted text preserves the columns of the plan
        page = wandb.Html(f"<pre>{html.escape(plan)}</pre>", inject=False)
        self.experiment.log({"plan": page, "step": self.last_step})

    def _log_lost_steps(self) -> None:
        """Read which steps earlier offline files have, and log the missing ones up to the
        checkpoint."""
        run = self.experiment
        done = self.last_step
        own = Path(run.dir).parent
        # match the id in the file name: the folder of a run that starts in the same second as
        # another has a suffix after the id
        files = own.parent.glob(f"offline-run-*/run-{run.id}.wandb")
        earlier = [file for file in files if file.parent != own]
        if not (done and run.offline and earlier):
            return
        self._logged = logged_names(earlier)
        for row in read_rows(self.run_dir / "metrics.csv"):
            if row["step"] <= done:
                self.log_metrics(row, row["step"])
        self.last_step = done

    @rank_zero_only
    def finish(self, record: RunRecord, checkpoints: Mapping[str, str | Path]) -> list[str]:
        """Log final values as summary, the checkpoint as artifact, figures and views as media.
        Returns a line for each part that failed."""
        run = self.experiment
        attempts = Attempts()
        attempts.do("W&B summary", lambda: run.summary.update(jsonable(record.final)))
        attempts.do("W&B artifact", lambda: self._log_checkpoint(checkpoints, record))
        if self.settings.plots:
            media = _media(record, attempts)
            attempts.do("W&B media", lambda: run.log({**media, "step": self.last_step}))
        return attempts.lost

    def _log_checkpoint(self, checkpoints: Mapping[str, str | Path], record: RunRecord) -> None:
        import wandb

        setting = self.settings.checkpoint
        kind = setting if setting in checkpoints else "last"
        if setting == "none" or kind not in checkpoints:
            return
        run = self.experiment
        metadata = jsonable({"kind": kind, **checkpoint_metrics(record, kind)})
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
        # "mutable" copies the file. Offline that is necessary: the upload may happen after a
        # resumed run has replaced the checkpoint.
        policy: Literal["mutable", "immutable"] = "mutable" if run.offline else "immutable"
        artifact.add_file(str(checkpoints[kind]), name="model.ckpt", policy=policy)
        for base in sorted(Path(checkpoints[kind]).parent.glob("base-*.pt")):
            artifact.add_file(str(base), name=base.name, policy=policy)
        run.log_artifact(artifact, aliases=["latest", kind])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End a failed run. Lightning calls this after every fit and test; `close` ends a run that
        succeeded."""
        if status == "failed":
            self._end(exit_code=1)

    @rank_zero_only
    def close(self) -> None:
        """End the run: everything is on disk or uploaded, and the next run of a sweep starts its
        own."""
        self._end(exit_code=0)

    def _end(self, exit_code: int) -> None:
        if self._experiment is not None:
            self._id = self._wandb_init["id"] = self._experiment.id
            folders = self._offline_folders()
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None
            if len(folders) > 1:
                pattern = self.run_dir / "wandb" / "offline-run-*"
                line = f"W&B: this run was resumed and has {len(folders)} offline folders"
                print(f"{line}; upload them as one run: wandb sync {pattern}", file=sys.stderr)

    def _offline_folders(self) -> list[Path]:
        """Those of this run and of the runs that it resumed; none online."""
        run = self._experiment
        if run is None or not getattr(run, "offline", False):
            return []
        files = (self.run_dir / "wandb").glob(f"offline-run-*/run-{run.id}.wandb")
        return sorted(file.parent for file in files)


# what does not make a configuration another one
OWN = ("seed", "run_dir", "resume", "accept_changes", "dry_run", "logger")


def labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name, group and tags of a run by its config: the name has the seed, the group has not."""
    chosen = {str(group): str(choice) for group, choice in (config.get("chosen") or {}).items()}
    words = [chosen.get("recipe") or config.get("recipe"), chosen.get("data")]
    stem = "-".join(str(word) for word in words if word) or "run"
    same = {key: value for key, value in config.items() if key not in OWN}
    text = json.dumps(jsonable(without_seeds(same)), sort_keys=True)
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    methods = list(map(str, config.get("methods") or {}))
    families = [
        group
        for group, choice in chosen.items()
        if group not in ("recipe", "data")
        and any(name.strip(" '\"") in methods for name in choice.strip("[]").split(","))
    ]
    tags = dict.fromkeys(str(word)[:64] for word in [*words, *families, *methods] if word)
    return {
        "name": f"{stem}-{config.get('seed')}",
        "group": f"{stem}-{digest}",
        "tags": list(tags),
    }


def without_seeds(node: Any) -> Any:
    """The config without any key `seed`: the data set takes that of the run."""
    if isinstance(node, Mapping):
        return {key: without_seeds(value) for key, value in node.items() if key not in OWN[:2]}
    return node


def checkpoint_metrics(record: RunRecord, kind: str) -> dict[str, Any]:
    """The numbers of a checkpoint: the final ones of `last`, those of its validation of `best`."""
    if kind != "best":
        return record.final
    rows = [row for row in record.history if row.get(record.monitor) is not None]
    rows = [row for row in rows if math.isfinite(row[record.monitor])]
    if not rows:
        return {}
    sign = -1 if lower_is_better(record.monitor) else 1
    # the first of equal ones, as the checkpoint
    best = max(rows, key=lambda row: sign * row[record.monitor])
    return {name: value for name, value in best.items() if name == "step" or "val/" in name}


def _media(record: RunRecord, attempts: Attempts) -> dict[str, Any]:
    import wandb
    from PIL import Image

    from recipes.report.figures import figures_png

    media: dict[str, Any] = {}
    for name, picture in figures_png(record, attempts).items():
        media[f"report/{name}"] = wandb.Image(Image.open(io.BytesIO(picture)))
    texts = [row for row in record.views if row.kind == "text"]
    if texts:
        attempts.do("W&B views", lambda: media.update({"report/views": _text_table(texts)}))
    return media


def _text_table(rows: list[ViewRow]) -> Any:
    import wandb

    columns: list[str | int] = ["weak", "strong", "pseudo_label", "confidence", "true", "kept"]
    table = wandb.Table(columns=columns)
    for row in rows:
        table.add_data(*(getattr(row, str(name)) for name in columns))
    return table
