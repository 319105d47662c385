"""The two paths a user gives to a run, looked at before anything starts: the folder it writes and what it
resumes.

`torch` is imported late: most mistakes are found before anybody has to wait for it.
"""

import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules.errors import UserError

TRACES = ("config.yaml", "plan.txt", "metrics.csv", "metrics.json", "report.html", "checkpoints")
CHECKPOINT_KEYS = ("state_dict", "global_step", "pytorch-lightning_version")


def run_dir_faults(run_dir: str, resume: str | None = None, reading: bool = False) -> list[str]:
    """Why a run may not write this folder, if so: no folder, not writable, or it holds a run.

    A folder that holds a run may be gone on with (`resume` names it, or a checkpoint inside it) and nothing
    else. reading: nothing will be written (a dry run), so that a run may lie there."""
    folder = Path(run_dir).expanduser()
    if not reading and folder.is_dir() and any((folder / trace).exists() for trace in TRACES):
        inside = resume is not None and Path(resume).expanduser().resolve().is_relative_to(folder.resolve())
        if not inside:
            return [f"run_dir: '{run_dir}' holds a run already; name another folder, or add resume={run_dir}"]
    ancestor = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not ancestor.is_dir():
        return [f"run_dir: '{run_dir}' cannot be a folder: '{ancestor}' is a file"]
    try:
        # permissions do not tell of read-only and virtual file systems; this file has no name and leaves no trace
        with tempfile.TemporaryFile(dir=ancestor):
            return []
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return [f"run_dir: '{run_dir}' cannot be written: {reason} in '{ancestor}'"]


def stages_faults(run_dir: str, resume: str) -> list[str]:
    """Why a recipe of several stages cannot go on, if so: it does so in its own folder alone."""
    folder = Path(resume).expanduser()
    if not (folder / "config.yaml").is_file():
        return [f"resume: '{resume}' holds no run; name the folder of a run of this recipe"]
    if folder.resolve() != Path(run_dir).expanduser().resolve():
        return [f"resume: a recipe of several stages goes on in its own folder; add run_dir={resume}"]
    return []


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make the run's folder. A mistake of the user's that shows before there are metrics or checkpoints leaves the
    disk as it was: what was written is taken away again."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except UserError:
        if not (folder / "metrics.csv").exists() and not (folder / "checkpoints").exists():
            for entry in set(folder.iterdir()) - before:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            for path in missing:
                path.rmdir()
        raise


def find_checkpoint(resume: str) -> Path:
    """The checkpoint file that `resume` names: itself, or `checkpoints/last.ckpt` in a run's folder."""
    path = Path(resume).expanduser()
    if path.is_dir():
        inside = path / "checkpoints" / "last.ckpt"
        if not inside.is_file():
            raise UserError(f"resume: the folder '{resume}' holds no checkpoints/last.ckpt; name a run or a .ckpt")
        return inside
    if not path.is_file():
        raise UserError(f"resume: there is no '{resume}'; name a run's folder or a .ckpt")
    return path


def load_checkpoint(resume: str) -> dict[str, Any]:
    """The checkpoint that `resume` names, on the CPU, read without running code from it (`weights_only`).

    Raises `UserError` where the file is no checkpoint of a run.
    """
    import torch

    path = find_checkpoint(resume)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words are a page about its switches
        raise UserError(f"resume: '{path}' is no checkpoint: it holds other things than weights and numbers") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"resume: '{path}' is no checkpoint: {reason[:160].rstrip('.')}") from error
    missing = [key for key in CHECKPOINT_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"resume: '{path}' is no checkpoint of a run: it holds no {', '.join(missing)}")
    return content
