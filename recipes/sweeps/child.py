"""The process of one job: a single run that records its result in job.json.

python -m recipes.sweeps.child CONFIGS FOLDER OVERRIDES…
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from foundation.errors import UserError, nearest
from foundation.exit_codes import end_at_sigterm, exit_code
from recipes.runs.start import further_rank, ready, start
from recipes.sweeps.record import read_job, write_job


def main(argv: Sequence[str]) -> int:
    root, folder, *overrides = argv
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return exit_code(lambda: run_and_record(overrides, Path(root), Path(folder)))


def run_and_record(overrides: list[str], root: Path, folder: Path) -> int:
    job = read_job(folder)
    assert job is not None, "written by the parent process"
    spec = ready(overrides, root)
    pruning = None
    if job.trial:
        # imports Optuna, which other sweeps do not need
        from recipes.sweeps.pruning import PruningCallback

        pruning = PruningCallback(**job.trial)
    options = {"callbacks": [pruning]} if pruning else {}
    result = start(spec, **options)
    metrics = result.metrics
    if job.metric and job.metric not in metrics:
        key = f"hydra.sweeper.metric={job.metric}"
        raise UserError(key, "the run has no such metric", nearest(job.metric, metrics))
    if not further_rank():
        job.metrics = dict(metrics)
        job.monitor = judging_metric(job.metric or result.monitor, metrics)
        job.reason = pruning.reason if pruning else ""
        job.state = "pruned" if job.reason else "done"
        write_job(folder, job)
    return 0


def judging_metric(monitor: str | None, metrics: dict[str, float]) -> str:
    """The first that the run has of: its monitor, the usual metrics, any other; empty without
    metrics. The monitor of a recipe of stages may be missing in the last stage."""
    for name in (monitor, "val/accuracy", "val/recall@1", "test/accuracy", *metrics):
        if name and name in metrics:
            return name
    return ""


def end_with_parent() -> None:
    """Terminate this process, as a preemption does, when the parent process ends.

    stdin is a pipe from the parent: the read returns when the pipe breaks.
    """
    if sys.stdin is not None:
        os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_at_sigterm(silent=further_rank())
    if not further_rank():
        threading.Thread(target=end_with_parent, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
