"""The process of one job: a single run that notes its result in the job's record.

python -m recipes.sweeps.child CONFIGS FOLDER OVERRIDES…
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from foundation.errors import UserError, nearest
from foundation.exit_codes import exit_code
from recipes.runs.start import further_rank, ready, start
from recipes.sweeps import record


def main(argv: Sequence[str]) -> int:
    root, folder, *overrides = argv
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return exit_code(lambda: run_and_note(overrides, Path(root), Path(folder)))


def run_and_note(overrides: list[str], root: Path, folder: Path) -> int:
    job = record.read(folder)
    assert job is not None, "written by the starter"
    spec = ready(overrides, root)
    watch = None
    if job.trial:
        from recipes.sweeps.pruning import Watch

        watch = Watch(**job.trial)
    options = {"callbacks": [watch]} if watch else {}
    result = start(spec, **options)
    metrics = result.metrics
    if job.metric and job.metric not in metrics:
        key = f"hydra.sweeper.metric={job.metric}"
        raise UserError(key, "the run has no such metric", nearest(job.metric, metrics))
    if not further_rank():
        job.metrics = dict(metrics)
        job.monitor = judged_by(job.metric or result.monitor, metrics)
        job.reason = watch.reason if watch else ""
        job.state = "pruned" if job.reason else "done"
        record.write(folder, job)
    return 0


def judged_by(monitor: str | None, metrics: dict[str, float]) -> str:
    """The run's monitor; a recipe of stages has one in each, and its last metrics tell which."""
    names = [monitor] if monitor else []
    names += ["val/accuracy", "val/recall@1", "test/accuracy", *metrics]
    return next((name for name in names if name in metrics), "")


def follow_starter() -> None:
    """End as on a machine that is taken away when the starter is gone: its end of the pipe closes
    with it."""
    if sys.stdin is not None:
        os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if not further_rank():
        threading.Thread(target=follow_starter, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
