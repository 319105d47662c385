"""The two paths a user gives to a run, looked at before anything starts: the folder it writes and
what it resumes.

`torch` is imported late: most mistakes are found before anybody has to wait for it.
"""

import fcntl
import logging
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foundation.errors import UserError, nearest

logger = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# locked by the process that writes the folder; the system takes the lock away with the process
LOCK = ".writing"
TRACES = ("config.yaml", "plan.txt", "metrics.csv", "metrics.json", "report.html", "checkpoints")
CHECKPOINT_KEYS = ("state_dict", "global_step", "pytorch-lightning_version", "numbers")


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder has something to go on from."""
    return any((folder / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))


def clear(folder: Path) -> None:
    """Take away what a run without a checkpoint left behind."""
    for trace in TRACES:
        path = folder / trace
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def being_written(folder: Path) -> bool:
    """Whether another process writes this folder now."""
    try:
        with (folder / LOCK).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. Raises `UserError` where another one has it."""
    path = folder / LOCK
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"run_dir: '{folder}' is being written by another process; name another folder"
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def run_dir_faults(run_dir: str, resume: str | None = None, reading: bool = False) -> list[str]:
    """Why a run may not write this folder, if so: no folder, not writable, or it holds a run.

    A folder that holds a run may be gone on with (`resume` names it, or a checkpoint inside it) and
    nothing else. reading: nothing will be written (a dry run), so that a run may lie there."""
    folder = Path(run_dir).expanduser()
    if not reading and folder.is_dir() and any((folder / trace).exists() for trace in TRACES):
        inside = resume is not None and Path(resume).expanduser().resolve().is_relative_to(
            folder.resolve()
        )
        if not inside:
            return [
                f"run_dir: '{run_dir}' holds a run already; name another folder, or add "
                f"resume={run_dir}"
            ]
    ancestor = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not ancestor.is_dir():
        return [f"run_dir: '{run_dir}' cannot be a folder: '{ancestor}' is a file"]
    try:
        # permissions do not tell of read-only and virtual file systems; this file has no name and
        # leaves no trace
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
        return [
            f"resume: a recipe of several stages goes on in its own folder; add run_dir={resume}"
        ]
    return []


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make the run's folder. A mistake of the user's that shows before there are metrics or
    checkpoints leaves the disk as it was: what was written is taken away again."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except UserError:
        if not (folder / "metrics.csv").exists() and not (folder / "checkpoints").exists():
            for entry in set(folder.iterdir()) - before:
                shutil.rmtree(
                    entry
                ) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            for path in missing:
                path.rmdir()
        raise


def find_checkpoint(resume: str) -> Path:
    """The checkpoint file that `resume` names: itself, or the last whole one in a run's folder.

    In a folder a damaged or missing `last.ckpt` is said, and the one before it taken. Raises
    `UserError`.
    """
    path = Path(resume).expanduser()
    if not path.is_dir():
        if not path.is_file():
            near = nearest(resume, ["auto"])
            more = near if near.startswith("did you") else "name a run's folder or a .ckpt"
            raise UserError(f"resume: there is no '{resume}'; {more}")
        return path
    last, previous = path / "checkpoints" / LAST, path / "checkpoints" / PREVIOUS
    if not last.is_file() and not previous.is_file():
        raise UserError(
            f"resume: the folder '{resume}' holds no checkpoints/{LAST}; name a run or a .ckpt"
        )
    if whole(last) or not previous.is_file():
        return last
    logger.warning(
        "resume: '%s' is %s; going on from %s",
        last,
        "damaged" if last.is_file() else "gone",
        PREVIOUS,
    )
    return previous


def resumable(resume: str) -> str:
    """`resume`, or the checkpoint to take instead where the last one of that folder is damaged:
    said once."""
    found = find_checkpoint(resume)
    return str(found) if found.name == PREVIOUS else resume


def whole(path: Path) -> bool:
    """Whether a checkpoint is on the disk as it was written: every record agrees with its
    checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError):
        return False


def load_checkpoint(resume: str) -> dict[str, Any]:
    """The checkpoint that `resume` names, on the CPU, read without running code from it
    (`weights_only`).

    Raises `UserError` where the file is no checkpoint of a run.
    """
    import torch

    path = find_checkpoint(resume)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words are a page about its switches
        raise UserError(
            f"resume: '{path}' is no checkpoint: it holds other things than weights and numbers"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"resume: '{path}' is no checkpoint: {reason[:160].rstrip('.')}") from error
    if not whole(path):
        raise UserError(
            f"resume: '{path}' is damaged: its checksums do not agree; resume from another "
            "checkpoint"
        )
    missing = [
        key for key in CHECKPOINT_KEYS if not isinstance(content, dict) or key not in content
    ]
    if missing:
        raise UserError(
            f"resume: '{path}' is no checkpoint of a run: it holds no {', '.join(missing)}"
        )
    return content
