"""Builds Lightning loggers from the config's `logger` group, and starts and ends them.

loggers = build_loggers(config.logger, run_dir, resume_step)  # the first is MetricsFiles
start_loggers(loggers, config, plan)                          # log config and plan
...                                                           # the trainer logs metrics
finish_loggers(loggers, record, checkpoints)                  # log figures and checkpoint, end
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.loggers import Logger

from foundation.attempts import Attempts
from foundation.errors import UserError, first_line
from recipes.loggers.files import MetricsFiles
from recipes.report.record import RunRecord


def build_loggers(
    config: Mapping[str, Any] | None,
    run_dir: str | Path,
    resume_step: int | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
) -> list[Logger]:
    """`MetricsFiles`, then one logger per entry of `config`. Raises `UserError` for an entry that
    is not a logger.

    config: the `logger` node, name -> node with `_target_`. The target is a Lightning logger, or an
        object whose `open(run_dir, resume_step)` returns one.
    resume_step: optimizer steps of the checkpoint to resume; None for a new run.
    history: rows of metrics.csv as that checkpoint has them.
    """
    loggers: list[Logger] = [MetricsFiles(run_dir, resume_step, history)]
    for name, node in (config or {}).items():
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"logger.{name}: found {node!r}; expected a node with _target_")
        entry = made(f"logger.{name}", node)
        logger = entry.open(run_dir, resume_step) if hasattr(entry, "open") else entry
        if not isinstance(logger, Logger):
            problem = f"{node['_target_']} is not a Lightning logger"
            raise UserError(f"logger.{name}", problem, "expected a subclass of Logger")
        loggers.append(logger)
    return loggers


def made(key: str, node: Mapping[str, Any]) -> Any:
    """What a node makes. Raises `UserError` for whatever the constructor of a logger raises: a
    package or a key that is missing, a server that does not answer."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as refusal:
        cause: BaseException = refusal
        while cause.__cause__ is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from refusal
        problem = f"{node['_target_']} cannot be made ({first_line(cause)[:200]})"
        remedy = "install its package" if isinstance(cause, ImportError) else "see its arguments"
        raise UserError(key, problem, remedy) from refusal


def start_loggers(loggers: Sequence[Logger], config: Mapping[str, Any], plan: str) -> None:
    """Log the resolved config (plain containers) and the plan, before the first step."""
    for logger in loggers:
        if hasattr(logger, "start"):
            logger.start(config, plan)
        else:
            logger.log_hyperparams(dict(config))


def finish_loggers(
    loggers: Sequence[Logger], record: RunRecord, checkpoints: Mapping[str, str | Path]
) -> list[str]:
    """Log the finished run and end the loggers. metrics.json is written or an error raised; of the
    rest a line is returned for each part that failed.

    checkpoints: files by kind, `last` and `best`; missing files are skipped.
    """
    files = {kind: path for kind, path in checkpoints.items() if path and Path(path).is_file()}
    attempts = Attempts()
    for logger in loggers:
        name = type(logger).__name__
        if isinstance(logger, MetricsFiles):
            logger.finish(record.final)
        elif hasattr(logger, "finish"):
            lost = attempts.make(name, partial(logger.finish, record, files), None)
            attempts.lost += lost or []
        attempts.do(f"end of {name}", partial(close_loggers, [logger]))
    return attempts.lost


def close_loggers(loggers: Sequence[Logger], failed: bool = False) -> None:
    """End all loggers. failed: the run raised an error, possibly outside the trainer."""
    for logger in loggers:
        if failed:
            logger.finalize("failed")
        if hasattr(logger, "close"):
            logger.close()


def metrics_files(loggers: Sequence[Any]) -> MetricsFiles | None:
    """The `MetricsFiles` among the loggers: it has the metrics on the host, without a transfer."""
    return next((logger for logger in loggers if isinstance(logger, MetricsFiles)), None)
