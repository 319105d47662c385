"""Errors that Lightning, or a part of the run, raises while a checkpoint is put back: one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundation.errors import UserError, first_line

CONNECTOR = "pytorch_lightning.trainer.connectors.checkpoint_connector"


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """path: the checkpoint that the run inside resumes; None for a new run.

    Its structure has been checked (`checkpoint_form`); this is for what only its reader knows.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if path is None or not raised_while_restoring(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)[:160]}"
        problem = f"'{path}' is not a run of this version: restoring it failed ({reason})"
        raise UserError("resume", problem, "expected a checkpoint of this run") from error


def raised_while_restoring(error: BaseException) -> bool:
    """Whether the error came out of Lightning's reading of a checkpoint."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == CONNECTOR:
            return True
        trace = trace.tb_next
    return False
