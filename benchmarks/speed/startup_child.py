"""What `startup.py` runs in a process of its own. It imports nothing heavy itself: imports are what
is measured."""

import json
import time
from typing import Any

STAGES = (
    "interpreter",
    "config: composed, validated, what it names imported",
    "engine imported",
    "data read, network built, trainer made",
    "to the first step",
    "first step",
    "second step, validations, checkpoints",
    "test, page, end of the process",
)
FIRST = STAGES.index("first step")


def run(overrides: list[str], began: float) -> None:
    """Run, and print the seconds since `began` at the end of each stage but the last as JSON."""
    marks = []

    def mark() -> None:
        marks.append(time.monotonic() - began)

    mark()
    from recipes.runs.start import ready, start

    spec = ready(overrides)
    mark()
    from pytorch_lightning.callbacks import Callback

    import recipes.runs.run  # noqa: F401

    mark()

    class Marks(Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if stage == "fit":
                mark()

        def on_train_batch_start(self, *args: Any) -> None:
            if len(marks) == FIRST - 1:
                mark()

        def on_train_batch_end(self, *args: Any) -> None:
            if len(marks) == FIRST:
                mark()

        def on_train_end(self, *args: Any) -> None:
            mark()

    start(spec, callbacks=[Marks()])
    print(f"\n{json.dumps(marks)}", flush=True)
