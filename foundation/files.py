"""Atomic writes, and JSON that every parser reads."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from foundation.errors import UserError


def printable(text: str) -> str:
    r"""The text with `\udcff` for a lone surrogate, which no UTF-8 file and no font has: Python's
    form of a byte in a file name that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file through a temporary file in the same folder, so that a reader never
    sees a part of it. Lone surrogates are written as in `printable`.

    Raises `UserError` if the folder is not writable.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
        # mkstemp makes files private; a run's files get the permissions of any new file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); expected a writable folder"
        ) from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
