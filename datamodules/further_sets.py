"""Further sets beside the one that a run trains on: `data.sources.NAME=PLACE`.

A set `sketch` brings the parts `sketch` (its training samples, for streams of methods and for
`data.unlabeled`), `sketch_test` and, where it has one, `sketch_val`, whose metrics are
`sketch_test/accuracy` and so on. Labels are those of the first set, by name.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.checks import load_checked
from datamodules.evaluation_parts import evaluation_parts, labeled_rows
from datamodules.names import printable
from datamodules.source import DataInfo, Loader, Source, Splits
from datamodules.streams import Part
from foundation.errors import UserError, nearest

KEY = "data.sources"
RESERVED = {"labeled", "unlabeled", "train", "val", "test", "raw", "evaluation"}
NAME = re.compile(r"[a-z][a-z0-9_]*")
FIELDS = {"source", "root", "place", "tasks"}
OWN = "own"


@dataclass(frozen=True)
class Further:
    """A set that is still to be read: its loader, and the folder that holds it. own_tasks: its
    labels are those of tasks of its own, see `own_tasks`."""

    name: str
    loader: Loader
    root: str | Path | None = None
    own_tasks: bool = False

    @property
    def key(self) -> str:
        return f"{KEY}.{self.name}"


# -- settings --------------------------------------------------------------------------------------
def further_sets(
    sources: Mapping[str, Any], main: Loader, root: str | Path | None
) -> dict[str, Further]:
    """The sets that `data.sources` names. Raises UserError for a name or a value that is none.

    main, root: of the first set: a place is read as this one reads its own.
    """
    found = {}
    for name, value in sources.items():
        if value is None:
            continue
        if not NAME.fullmatch(name) or name in RESERVED or name.endswith(("_val", "_test")):
            problem = f"'{printable(name)}' cannot name a set"
            remedy = f"expected a word in small letters, none of {', '.join(sorted(RESERVED))}"
            raise UserError(KEY, problem, remedy)
        found[name] = further_set(name, value, main, root)
    return found


def further_set(name: str, value: Any, main: Loader, root: str | Path | None) -> Further:
    """One of them. value: a place, a loader, or a mapping of `source` and `root` or of `place`, and
    perhaps of `tasks`."""
    key = f"{KEY}.{name}"
    if isinstance(value, str):
        return set_at(name, value, main, root)
    if isinstance(value, Loader):
        return Further(name, value)
    given = isinstance(value, Mapping) and (value.get("place") or value.get("source"))
    if not isinstance(given, str | Loader):
        problem = f"found {printable(str(value))[:60]!r}"
        raise UserError(key, problem, "expected a folder or file, or a mapping with `source`")
    unknown = sorted(set(value) - FIELDS)
    if unknown:
        raise UserError(f"{key}.{unknown[0]}", "no such setting", nearest(unknown[0], FIELDS))
    if isinstance(given, str) and (value.get("source") or value.get("root")):
        raise UserError(f"{key}.place={given}", "is read as the first set", "leave the others out")
    tasks = value.get("tasks")
    if tasks not in (None, OWN):
        problem = f"found {printable(str(tasks))[:60]!r}"
        raise UserError(
            f"{key}.tasks", problem, "expected own, or nothing for those of the first set"
        )
    if isinstance(given, str):
        found = set_at(name, given, main, root)
        if tasks == OWN:
            found.loader.divides = True  # type: ignore[attr-defined]
    else:
        found = Further(name, given, value.get("root"))
    return replace(found, own_tasks=tasks == OWN)


def set_at(name: str, place: str, main: Loader, root: str | Path | None) -> Further:
    """A set that is read as the first one, from another place."""
    key = f"{KEY}.{name}"
    at = getattr(main, "at", None)
    if at is None:
        problem = f"{type(main).__name__} is at one place only"
        remedy = "expected a mapping with the _target_ of a loader"
        raise UserError(f"{key}={printable(place)}", problem, remedy)
    try:
        return Further(name, *at(place, root))
    except UserError as error:
        raise error.about(f"{key}={printable(place)}") from None


# -- reading ---------------------------------------------------------------------------------------
def load_further(further: Further, train: Source, info: DataInfo) -> Splits:
    """The parts of a further set, with the classes of the first. Raises UserError.

    train, info: training part and facts of the first set.
    """
    own = further.loader.info()
    check_kind(further.key, own, info)
    try:
        splits = load_checked(further.loader, further.root)
    except UserError as error:
        raise UserError(further.key, str(error)) from error
    parts = (splits.train, splits.test, splits.val)
    done: dict[int, Source] = {}
    for part in parts:
        if part is not None and id(part) not in done:
            done[id(part)] = part
            take_classes(further.key, part, train, info.disjoint)
    return splits


def check_kind(key: str, own: DataInfo, info: DataInfo) -> None:
    """Raise UserError for samples that do not fit into one batch with those of the first set."""
    if own.kind != info.kind:
        raise UserError(key, f"is a set of {own.kind}s", f"expected {info.kind}s, as the first set")
    if own.shape is not None and own.form.shape != info.form.shape:
        sizes = ["×".join(map(str, each.form.shape)) for each in (own, info)]
        remedy = f"expected {sizes[1]} (channels, height, width), as in the first set"
        raise UserError(key, f"has images of {sizes[0]}", remedy)


def take_classes(key: str, part: Source, train: Source, disjoint: bool) -> None:
    """Number the labels of a part by the classes of the first set. disjoint: evaluation has other
    classes than training, whose numbers are kept."""
    if set(part.classes) != set(train.classes):
        own, expected = (", ".join(source.classes) for source in (part, train))
        raise UserError(key, f"has the tasks {own}", f"expected {expected}, as in the first set")
    if disjoint:
        return
    for task, names in train.classes.items():
        part.targets[task] = renumbered(key, part.targets[task], part.classes[task], names)
    part.classes = train.classes


def renumbered(key: str, targets: Tensor, own: list[str], names: list[str]) -> Tensor:
    """Targets by the places of their names among `names`; -1 for none."""
    place = {name: i for i, name in enumerate(names)}
    present = torch.bincount(targets[targets >= 0], minlength=len(own))
    table = torch.full((len(own) + 1,), -1, dtype=torch.int64)  # the last is that of -1
    for i, name in enumerate(own):
        if name in place:
            table[i] = place[name]
        elif present[i]:
            problem = f"class '{printable(name)}' is not among those of the first set"
            raise UserError(key, problem, nearest(name, names))
    return table[targets]


def parts_of(name: str, splits: Splits) -> Iterator[tuple[str, Part]]:
    """The parts of a further set by the names they have in a run. What is evaluated has labels: a
    set without any has no such parts."""
    yield name, Part.whole(splits.train)
    for part, source in (("val", splits.val), ("test", splits.test)):
        if source is None:
            continue
        own = f"{name}_{part}"
        roles = splits.roles.get(part)
        rows = labeled_rows(source)
        if roles is not None:
            yield from evaluation_parts(own, source, roles).items()
        elif len(rows):
            yield own, Part.of_rows(source, rows)


def look_at(further: Further, info: DataInfo) -> None:
    """What is cheap to know before anything is read. Raises UserError."""
    check_kind(further.key, further.loader.info(), info)
    previewed(further)


def previewed(further: Further) -> DataInfo:
    """The facts of a set, as far as it is cheap to know them. Raises UserError."""
    preview = getattr(further.loader, "preview", None)
    if preview is None:
        return further.loader.info()
    try:
        found: DataInfo = preview(further.root)
    except UserError as error:
        raise UserError(further.key, str(error)) from error
    return found


def without_targets(source: Source) -> Source:
    """The same samples, whose labels nobody sees."""
    blind = copy.copy(source)
    blind.targets = {}
    return blind
