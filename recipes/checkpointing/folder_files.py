"""The files of a run's folder, which others may have written or a disk has damaged: what stands in
the place of a file, and what is read from one."""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from foundation.errors import UserError, first_line
from foundation.files import os_reason

METRICS = "metrics.json"
STAGES = "stages.json"
WRITTEN = ("config.yaml", "plan.txt", "metrics.csv", METRICS, STAGES, "report.html", ".writing")
CHECKPOINTS = "checkpoints"
SAVED = ("last.ckpt", "previous.ckpt", "best.ckpt", ".last.ckpt.part", ".best.ckpt.part")

Metrics = dict[str, float | None]  # null: not finite
Figures = dict[str, Metrics]
EXPECTED = {METRICS: "the final metrics of a run", STAGES: "the metrics of each finished stage"}


def folder_errors(folder: Path) -> list[UserError]:
    """What stands in a run's folder where the run writes a file, and is none; a line each."""
    below = folder / CHECKPOINTS
    files = [*(folder / name for name in WRITTEN), *(below / name for name in SAVED)]
    errors = []
    try:
        if os.path.lexists(below) and not below.is_dir():
            errors.append(in_the_way(below, "a folder, or a link to one"))
        for path in files:
            if os.path.lexists(path) and not path.is_file():
                errors.append(in_the_way(path, "a file of the run"))
    except OSError as error:
        problem = f"'{folder}' cannot be read ({os_reason(error)})"
        return [UserError("run_dir", problem, "expected a folder that you may read and write")]
    return errors


def in_the_way(path: Path, expected: str) -> UserError:
    return UserError(
        "run_dir", f"'{path}' is {kind_of(path)}", f"expected {expected}; move it away"
    )


def kind_of(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_file():
        return "a file"
    return "a link to nothing" if path.is_symlink() and not path.exists() else "no regular file"


def read_metrics(path: Path) -> dict[str, Any]:
    """The final metrics of a finished run. Raises `UserError`."""
    return read_checked(path, Metrics)


def read_stages(path: Path) -> dict[str, dict[str, Any]]:
    """The metrics of the finished stages by name. Raises `UserError`."""
    return read_checked(path, Figures)


def read_checked(path: Path, form: Any) -> Any:
    expected = EXPECTED[path.name]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TypeAdapter(form).validate_python(content, strict=True)
    except ValidationError as error:
        problem = f"'{path}' is {misfit(error)}"
    except OSError as error:
        problem = f"'{path}' cannot be read ({os_reason(error)})"
    except (ValueError, RecursionError) as error:
        problem = f"'{path}' is not JSON ({first_line(error)})"
    remedy = "delete it and repeat the command, which makes it anew from the checkpoints"
    raise UserError("run_dir", problem, f"expected {expected}: {remedy}")


def misfit(error: ValidationError) -> str:
    """What does not fit, by its place."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    found = type(first["input"]).__name__
    return f"damaged: found {found} at {place}" if place else f"damaged: found {found}"
