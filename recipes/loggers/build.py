"""From the config's `logger` group to Lightning loggers, and the calls that bracket a run.

loggers = build_loggers(config.logger, run_dir, resume_step)   the first is always MetricsFiles
start_loggers(loggers, config, plan)                           config and plan
...                                                            the trainer logs
finish_loggers(loggers, record, checkpoints)                   figures, checkpoint, metrics.json;
ends the runs
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger

from foundation.errors import UserError
from recipes.loggers.files import MetricsFiles
from recipes.report.record import RunRecord


def build_loggers(
    config: Mapping[str, Any] | None, run_dir: str | Path, resume_step: int | None = None
) -> list[Logger]:
    """`MetricsFiles` first, then one logger an entry of `config` (the `logger` node: name -> node
    with `_target_`).

    An entry is ours, an object with `open(run_dir, resume_step)`, or any Lightning logger, taken as
    it is. resume_step: optimizer steps done by the checkpoint that is resumed, None for a new run.
    Raises `UserError` for an entry that is neither.
    """
    loggers: list[Logger] = [MetricsFiles(run_dir, resume_step)]
    for name, node in (config or {}).items():
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"logger.{name}: found {node!r}; expected a node with _target_")
        entry = instantiate(node, _convert_="all")
        logger = entry.open(run_dir, resume_step) if hasattr(entry, "open") else entry
        if not isinstance(logger, Logger):
            raise UserError(
                f"logger.{name}: {node['_target_']} is no Lightning logger; expected a subclass of "
                "Logger"
            )
        loggers.append(logger)
    return loggers


def start_loggers(loggers: Sequence[Logger], config: Mapping[str, Any], plan: str) -> None:
    """Hand over the resolved config (plain containers) and the plan, before the first step."""
    for logger in loggers:
        if hasattr(logger, "start"):
            logger.start(config, plan)
        else:
            logger.log_hyperparams(dict(config))


def finish_loggers(
    loggers: Sequence[Logger], record: RunRecord, checkpoints: Mapping[str, str | Path]
) -> None:
    """Hand over the finished run: `record`, and checkpoint files by kind, `last` and `best`, where
    they exist. Then end the loggers."""
    files = {kind: path for kind, path in checkpoints.items() if path and Path(path).is_file()}
    for logger in loggers:
        if isinstance(logger, MetricsFiles):
            logger.finish(record.final)
        elif hasattr(logger, "finish"):
            logger.finish(record, files)
    close_loggers(loggers)


def close_loggers(loggers: Sequence[Logger], failed: bool = False) -> None:
    """End all loggers, also those of a run that failed before or outside the trainer."""
    for logger in loggers:
        if failed:
            logger.finalize("failed")
        if hasattr(logger, "close"):
            logger.close()


def metrics_files(loggers: Sequence[Any]) -> MetricsFiles | None:
    """The `MetricsFiles` among loggers: the run's numbers on the host, without a transfer."""
    return next((logger for logger in loggers if isinstance(logger, MetricsFiles)), None)
