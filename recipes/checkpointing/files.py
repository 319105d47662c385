"""The two paths a user gives to a run, looked at before anything starts: the folder it writes and
what it resumes.

`torch` is imported late: most mistakes are found before anybody has to wait for it.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from foundation.errors import UserError, did_you_mean, first_line, nearest_name
from foundation.files import discard, os_reason, remove_leftovers
from recipes.checkpointing.folder_files import METRICS, STAGES, folder_errors

logger = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
# locked by the process that writes the folder; the system takes the lock away with the process
LOCK = ".writing"
TRACES = ("config.yaml", "plan.txt", "metrics.csv", "metrics.json", "report.html", "checkpoints")
CHECKPOINT_KEYS = ("state_dict", "global_step", "pytorch-lightning_version", "numbers")


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder has something to resume from."""
    return any((folder / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))


def clear(folder: Path) -> None:
    """Remove the files of a run that has no checkpoint. A link to a folder of checkpoints is kept
    and that folder is emptied. Raises `UserError` if a file cannot be removed."""
    try:
        for trace in TRACES:
            path = folder / trace
            if path.is_symlink() and path.is_dir():
                for entry in path.iterdir():
                    remove(entry)
            else:
                remove(path)
    except OSError as error:
        problem = f"'{folder}' cannot be cleared ({os_reason(error)})"
        raise UserError("run_dir", problem, "expected a writable folder") from error


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
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
    """Hold the folder for this process, and remove what killed writes left in it. Raises
    `UserError` where another process has it."""
    path = folder / LOCK
    with opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            problem = f"'{folder}' is being written by another process"
            raise UserError("run_dir", problem, "name another folder") from error
        remove_leftovers(folder)
        remove_leftovers(folder / "checkpoints")
        try:
            yield
        finally:
            discard(path)  # on a disk that has turned read-only it stays, and means nothing


def opened(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except OSError as error:
        problem = f"'{path}' cannot be written ({os_reason(error)})"
        raise UserError("run_dir", problem, "expected a writable folder") from error


def run_dir_errors(
    run_dir: str, resume: str | None = None, reading: bool = False
) -> list[UserError]:
    """Why a run may not write this folder, if so: no folder, not writable, or it holds a run.

    A folder that holds a run may be resumed (`resume` names it, or a checkpoint inside it) and
    nothing else. reading: nothing will be written (a dry run), so that a run may be there."""
    folder = Path(run_dir).expanduser()
    if not reading and holds_run(folder) and not is_inside(resume, folder):
        remedy = f"name another folder, or add resume={run_dir}"
        return [UserError("run_dir", f"'{run_dir}' holds a run already", remedy)]
    if not reading and folder.is_dir():
        misplaced = folder_errors(folder)
        if misplaced:
            return misplaced
    ancestor = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not ancestor.is_dir():
        return [UserError("run_dir", f"'{run_dir}' cannot be a folder: '{ancestor}' is a file")]
    try:
        # permissions do not tell of read-only and virtual file systems; this file has no name and
        # leaves no trace
        with tempfile.TemporaryFile(dir=ancestor):
            return []
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else first_line(error)
        problem = f"'{run_dir}' cannot be written: {reason} in '{ancestor}'"
        return [UserError("run_dir", problem)]


def holds_run(folder: Path) -> bool:
    return folder.is_dir() and any((folder / trace).exists() for trace in TRACES)


def is_inside(resume: str | None, folder: Path) -> bool:
    """Whether what is resumed is the folder itself, or a file in it."""
    if resume is None:
        return False
    return Path(resume).expanduser().resolve().is_relative_to(folder.resolve())


def stages_errors(run_dir: str, resume: str) -> list[UserError]:
    """Why a recipe of several stages cannot be resumed, if so: it is in its own folder alone."""
    folder = Path(resume).expanduser()
    if not (folder / "config.yaml").is_file():
        remedy = "name the folder of a run of this recipe"
        return [UserError("resume", f"'{resume}' holds no run", remedy)]
    if folder.resolve() != Path(run_dir).expanduser().resolve():
        problem = "a recipe of several stages resumes in its own folder"
        return [UserError("resume", problem, f"add run_dir={resume}")]
    return []


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make the run's folder. A mistake of the user's that shows before there are metrics or
    checkpoints, of the run or one of its stages, leaves the disk as it was: what was written is
    taken away again."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except UserError:
        # on a disk that has turned read-only the mistake is still what is reported
        with suppress(OSError):
            if not holds_results(folder):
                for entry in set(folder.iterdir()) - before:
                    remove(entry)
                for path in missing:
                    path.rmdir()
        raise


def holds_results(folder: Path) -> bool:
    """Whether a run, or a stage of it, has logged or saved anything."""
    stages = [path for path in folder.iterdir() if path.is_dir()]
    results = ("metrics.csv", "checkpoints", METRICS, STAGES)
    return any((place / name).exists() for place in (folder, *stages) for name in results)


def find_checkpoint(resume: str) -> Path:
    """The checkpoint file that `resume` names: itself, or the last whole one in a run's folder.

    In a folder, if `last.ckpt` is damaged or missing, a line says so and the previous checkpoint
    is used. Raises `UserError`.
    """
    path = Path(resume).expanduser()
    if not path.is_dir():
        if not path.is_file():
            near = did_you_mean(nearest_name(resume, ["auto"], cutoff=0.5))
            remedy = near or "name a run's folder or a .ckpt"
            raise UserError("resume", f"there is no '{resume}'", remedy)
        return path
    last = path / "checkpoints" / LAST
    previous = path / "checkpoints" / PREVIOUS
    if not last.is_file() and not previous.is_file():
        problem = f"the folder '{resume}' holds no checkpoints/{LAST}"
        raise UserError("resume", problem, "name a run or a .ckpt")
    if whole(last) or not previous.is_file():
        return last
    logger.warning(
        "resume: '%s' is %s; resuming from %s",
        last,
        "damaged" if last.is_file() else "gone",
        PREVIOUS,
    )
    return previous


def resumable(resume: str) -> str:
    """`resume`, or the checkpoint to take instead where the last one of that folder is damaged:
    said once."""
    path = find_checkpoint(resume)
    return str(path) if path.name == PREVIOUS else resume


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

    Raises `UserError` where the file is no checkpoint of a run, or its structure is not one from
    which training can resume.
    """
    from recipes.checkpointing.checked import check_form
    from recipes.checkpointing.form import Resumable

    path = find_checkpoint(resume)
    content = read_content(path, "resume")
    check_form(content, Resumable, "resume", path)
    return content


def read_content(path: Path, key: str) -> dict[str, Any]:
    """The content of a checkpoint, whose structure is not yet checked. key: the setting that named
    the file. Raises `UserError`."""
    from foundation.tensor_files import UnreadableFile, read_tensors

    try:
        content = read_tensors(path)
    except UnreadableFile as error:
        raise UserError(key, f"'{path}' is no checkpoint: {error}") from error
    if not whole(path):
        problem = f"'{path}' is damaged: its checksums do not agree"
        raise UserError(key, problem, f"{key} from another checkpoint")
    keys = content if isinstance(content, dict) else {}
    missing = [name for name in CHECKPOINT_KEYS if name not in keys]
    if missing:
        problem = f"'{path}' is no checkpoint of a run: it holds no {', '.join(missing)}"
        raise UserError(key, problem, "expected a .ckpt of a run of train.py")
    return content
