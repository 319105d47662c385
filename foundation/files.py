"""Atomic writes that survive a power cut, and JSON that every parser reads."""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from foundation.errors import UserError, first_line

PART = ".part"  # ending of a file that is being written
# the names of earlier versions: `.plan.txt.` and eight characters of `tempfile`
OLD_PART = re.compile(
    r"\.(config\.yaml|plan\.txt|metrics\.(csv|json)|stages\.json|report\.html)\.\w{8}"
)


def printable(text: str) -> str:
    r"""The text with `\udcff` for a lone surrogate, which no UTF-8 file and no font has: Python's
    form of a byte in a file name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file through a temporary file in the same folder, so that a reader never
    sees a part of it. It is on the disk when this returns: after a power cut the file is the old
    one or the new one. Lone surrogates are written as in `printable`.

    Raises `UserError` if the folder is not writable.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a run's files get the permissions of any new file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            discard(temporary)
        raise UserError(
            f"{path}: cannot be written ({os_reason(error)}); expected a writable folder"
        ) from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Bring a renaming to the disk; systems that cannot open a folder do without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def discard(path: Path) -> None:
    """Remove a file if the disk allows it. For clearing up after a failure, which must not be
    hidden by another one."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writes that were killed. Only the process that owns the folder
    may call it."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    for path in entries:
        hidden = path.name.startswith(".")
        if (hidden and path.name.endswith(PART)) or OLD_PART.fullmatch(path.name):
            discard(path)


def os_reason(error: BaseException) -> str:
    """Why the system refused, in its words (`No space left on device`). Libraries raise errors of
    their own while they handle that of the system: the first one in the chain counts."""
    for cause in chain(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return first_line(error)


def chain(error: BaseException) -> Iterable[BaseException]:
    """An error, and those that it was raised from or while handling, the newest first."""
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def jsonable(value: Any) -> Any:
    """`value` in JSON's types: NaN and infinities become null, which JSON does not have, arrays
    become lists, keys become strings, any other object its string."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [jsonable(entry) for entry in value]
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return jsonable(value.tolist())
    return str(value)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON, atomically; NaN and infinities as null."""
    return write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")
