"""Reading files of tensors that others may have written: nothing in them is executed, and whatever
is wrong with one is a reason in plain words."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

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
    tensors, numbers, texts and containers are read (`weights_only`).

    Raises `UnreadableFile`.
    """
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
