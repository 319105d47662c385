"""Reading files of tensors that others may have written: nothing in them is executed, and whatever
is wrong with one is a reason in plain words."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from foundation.base_file import KEY, NAME, base_beside, digest
from foundation.errors import first_line

UNREADABLE = (
    *(RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError),
    *(AttributeError, AssertionError, RecursionError, MemoryError, zipfile.BadZipFile),
)
SHOWN = 160  # characters of another library's reason that a message repeats


class UnreadableFile(Exception):
    """A file that holds no tensors. Its text is the reason."""


def read_tensors(path: Path) -> Any:
    """The content of a file of torch, or the tensors of a .safetensors file, on the CPU. Only
    tensors, numbers, texts and containers are read (`weights_only`). A checkpoint whose frozen
    weights are in a file beside it is returned whole.

    Raises `UnreadableFile`.
    """
    content = read_one(path)
    if isinstance(content, dict) and KEY in content:
        return with_base(content, path)
    return content


def with_base(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint together with its frozen weights. Raises `UnreadableFile`."""
    entry = content[KEY]
    state = content.get("state_dict")
    named = isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("file", "sha256")
    )
    # a name and no path: nothing outside of the folder is read
    if not named or not isinstance(state, dict) or not NAME.fullmatch(entry["file"]):
        raise UnreadableFile("it names no file of frozen weights where it should")
    name = entry["file"]
    file = base_beside(path, name)
    if not file.is_file():
        raise UnreadableFile(
            f"its frozen weights '{name}' are not beside it; copy that file from the run's folder "
            "checkpoints as well"
        )
    try:
        base = read_one(file)
    except UnreadableFile as error:
        raise UnreadableFile(f"its frozen weights '{name}' cannot be read: {error}") from error
    tensors = isinstance(base, dict) and all(isinstance(v, torch.Tensor) for v in base.values())
    if not tensors or digest(base) != entry["sha256"]:
        raise UnreadableFile(f"its frozen weights '{name}' are not those that it was saved with")
    whole = {key: value for key, value in content.items() if key != KEY}
    return whole | {"state_dict": base | state}


def read_one(path: Path) -> Any:
    """The content of one file. Raises `UnreadableFile`."""
    if not path.is_file():
        raise UnreadableFile("no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # torch advises to switch its protection off; that would run code from the file
    except pickle.UnpicklingError as error:
        raise UnreadableFile(
            "it holds Python objects, or is damaged; expected tensors, numbers and texts alone, "
            "which are read without running code"
        ) from error
    except (*UNREADABLE, SafetensorError) as error:
        raise UnreadableFile(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """The first line of an error of torch, without its advice."""
    line = first_line(error)
    if "weights_only" in line or "Weights only" in line:
        return "it is of a format that cannot be read without running code"
    return line[:SHOWN]
