"""The samples that keep their labels, by a file: `data.labeled=FILE`, e.g. a published split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.names import expanded, printable
from datamodules.source import Source
from datamodules.sources.files import check_regular
from datamodules.sources.tables import lines_of, read_text
from foundation.errors import UserError, first_line, nearest

KEY = "data.labeled"
NEXT = ("label", "labels", "labeled", "labeled_idx", "index")  # keys of published json files


def listed_rows(place: str, source: Source) -> Tensor:
    """Rows of a training source that a file lists, sorted, int64.

    place: a txt (one a line), a json (a list, or an object with one) or a npy. They are positions
        in the training part from 0, or names: of pictures, their paths in the set.

    Raises UserError, one line, for a file that does not fit.
    """
    listed = entries_of(place)
    if not len(listed):
        raise wrong(place, "lists no sample", "expected positions or names, one or more")
    if isinstance(listed, Tensor):
        rows = listed
    elif all(is_position(entry) for entry in listed):
        rows = torch.tensor([int(entry) for entry in listed], dtype=torch.int64)
    else:
        rows = rows_of_names(place, [str(entry) for entry in listed], source)
    check_rows(place, rows, source)
    return rows.sort().values


def wrong(place: str, problem: str, remedy: str = "") -> UserError:
    return UserError(f"{KEY}={printable(place)}", problem, remedy)


def is_position(entry: Any) -> bool:
    return str(entry).isdecimal() and len(str(entry)) < 19 and not isinstance(entry, bool)


# -- files -----------------------------------------------------------------------------------------
def entries_of(place: str) -> Tensor | list[Any]:
    """What a file lists."""
    path = expanded(place)
    suffix = path.suffix.lower()
    if not path.exists():
        hint = "its folder does not exist"
        if path.parent.is_dir():
            hint = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
        raise wrong(place, "no such file", hint)
    check_regular(path)
    if suffix == ".npy":
        return array_of(place, path)
    if suffix == ".json":
        return list_of(place, path)
    if suffix in (".txt", ""):
        return [line.strip() for line in lines_of(read_text(path)) if line.strip()]
    raise wrong(place, f"suffix '{suffix}' is not a known format", "expected .txt, .json or .npy")


def array_of(place: str, path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise wrong(place, f"cannot be read ({first_line(error)})", "expected a npy file") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        found = getattr(array, "dtype", type(array).__name__)
        raise wrong(place, f"holds {found}", "expected whole numbers, positions from 0")
    return torch.from_numpy(array.reshape(-1).astype(np.int64))


def list_of(place: str, path: Path) -> list[Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise wrong(place, f"is not JSON ({first_line(error)})") from None
    if isinstance(content, dict):
        known = [key for key in NEXT if isinstance(content.get(key), list)]
        if len(known) != 1:
            remedy = f"expected a list, or an object with one under {', '.join(NEXT)}"
            raise wrong(place, f"has the keys {', '.join(map(printable, content))}", remedy)
        content = content[known[0]]
    if not isinstance(content, list) or any(isinstance(e, dict | list) for e in content):
        raise wrong(place, "holds no list of samples", "expected positions or names")
    return content


# -- rows ------------------------------------------------------------------------------------------
def rows_of_names(place: str, names: list[str], source: Source) -> Tensor:
    """The rows of samples by name."""
    known = {source.name_of(row): row for row in range(len(source))}
    if set(known) <= {""}:
        raise wrong(place, "the samples of this set have no names", "expected positions from 0")
    rows = []
    for name in names:
        if name not in known:
            problem = f"no training sample is called '{printable(name)}'"
            raise wrong(place, problem, nearest(name, list(known)))
        rows.append(known[name])
    return torch.tensor(rows, dtype=torch.int64)


def check_rows(place: str, rows: Tensor, source: Source) -> None:
    """Raise UserError for rows that are not there, that occur twice or have no label."""
    size = len(source)
    outside = rows[(rows < 0) | (rows >= size)]
    if len(outside):
        problem = f"lists sample {int(outside[0])}"
        raise wrong(place, problem, f"expected 0 to {size - 1}, the training samples")
    unique, counts = rows.unique(return_counts=True)
    if len(unique) < len(rows):
        raise wrong(place, f"lists sample {int(unique[counts > 1][0])} twice", "remove one")
    for task, targets in source.targets.items():
        if (targets[rows] < 0).all():
            raise wrong(place, f"no sample in it has a label of task '{task}'")
        names = source.classes[task]
        absent = set(range(len(names))) - set(targets[rows].tolist())
        if absent:
            raise wrong(place, f"no sample in it is of class '{names[min(absent)]}' of '{task}'")
