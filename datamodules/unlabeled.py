"""Samples without labels beside a labeled set: `data.unlabeled=FOLDER_OR_FILE`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.further_sets import without_targets
from datamodules.joined import Joined
from datamodules.names import expanded, printable
from datamodules.picture_form import PictureForm
from datamodules.source import DataInfo, Source, Splits
from datamodules.sources.folder_source import FolderSource
from datamodules.sources.lines import stream_lines
from datamodules.sources.listing import listed
from datamodules.sources.path_list import PathList
from datamodules.sources.pictures import check_pictures, endings
from datamodules.sources.stored_rows import Read, is_stored, stored_rows
from datamodules.sources.stored_texts import Stored, StoredTexts, digests_of, joined
from datamodules.sources.tables import SUFFIXES, read_rows, shown, text_of
from datamodules.sources.text import TextSource, joined_texts
from foundation.errors import UserError, nearest

KEY = "data.unlabeled"
PLAIN = ".txt"  # one text a line
TEXT = "text"  # usual name of the column
BLOCK = 2**20  # digests that are compared at once


def with_unlabeled(
    splits: Splits,
    places: Sequence[str],
    info: DataInfo,
    loader: Any = None,
    further: Mapping[str, Source] | None = None,
) -> Splits:
    """The same set with further training samples, whose targets are -1.

    places: folders of pictures, files of texts, or names of further sets.
    loader: that of the set, which says how its files are read (`check`, `text_column`, …).
    further: training samples of further sets by name.

    Raises UserError, one line, for a place that does not fit.
    """
    if not places:
        return splits
    known = further or {}
    if info.kind == "text":
        train = splits.train
        assert isinstance(train, TextSource)
        texts: list[Sequence[str]] = []
        for place in places:
            source = known.get(place)
            known_texts = source.texts if isinstance(source, TextSource) else None
            texts.append(texts_of(place, loader) if known_texts is None else known_texts)
        return replace(splits, train=joined_texts(train, joined(texts)))
    check = getattr(loader, "check", "all")
    more = [
        without_targets(known[place]) if place in known else pictures_of(place, info, check)
        for place in places
    ]
    return replace(splits, train=Joined([splits.train, *more]))


def count_unlabeled(places: Sequence[str], info: DataInfo) -> int:
    """Pictures in these folders, for the plan; 0 of texts, whose files are not read for it."""
    if info.kind == "text":
        for place in places:
            existing(place, "file")
        return 0
    return sum(len(picture_files(place, info.form)) for place in places)


def existing(place: str, what: str) -> Path:
    """The folder or file of that name. Raises UserError."""
    path = expanded(place)
    if not path.exists():
        hint = "its folder does not exist"
        if path.parent.is_dir():
            hint = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
        raise UserError(f"{KEY}={printable(place)}", f"no such {what}", hint)
    if what == "folder" and not path.is_dir():
        problem = "is a file; pictures without labels are in a folder"
        raise UserError(f"{KEY}={printable(place)}", problem, f"expected {path.parent}, perhaps")
    if what == "file" and path.is_dir():
        problem = "is a folder; texts without labels are in a file"
        raise UserError(
            f"{KEY}={printable(place)}", problem, "expected a csv, tsv, jsonl, parquet or txt"
        )
    return path


# -- pictures --------------------------------------------------------------------------------------
def picture_files(place: str, form: PictureForm) -> PathList:
    """All pictures below a folder, at any depth, sorted. Raises UserError if there are none."""
    folder = existing(place, "folder")
    suffixes = endings(form)
    paths = listed([folder], suffixes).paths
    if not paths:
        problem = f"no pictures ({', '.join(sorted(suffixes))}) in it or in its folders"
        raise UserError(f"{KEY}={printable(place)}", problem)
    return paths


def pictures_of(place: str, info: DataInfo, check: str) -> FolderSource:
    """A source of the pictures below a folder, brought to the size of the set."""
    paths = picture_files(place, info.form)
    source = FolderSource(paths, {}, {}, info.form, expanded(place))
    if check == "all":
        check_pictures(source.paths, info.form)
    return source


# -- texts -----------------------------------------------------------------------------------------
def texts_of(place: str, loader: Any) -> Sequence[str]:
    """The texts of a file: lines of a txt, or one column of a csv, tsv, jsonl or parquet. A
    column with labels is not read. Those of a large file stay in the cache folder. Raises
    UserError."""
    path = existing(place, "file")
    if path.suffix.lower() not in (*SUFFIXES, PLAIN):
        known = ", ".join([*SUFFIXES, PLAIN])
        problem = f"suffix '{path.suffix}' is not a known format"
        raise UserError(f"{KEY}={printable(place)}", problem, f"expected {known}")
    texts = (
        stored_texts(path, loader) if is_stored(path, getattr(loader, "cache", "auto")) else None
    )
    if texts is None:
        texts = [text for _, text in numbered_texts(path, loader)]
    if not len(texts):
        raise UserError(f"{KEY}={printable(place)}", "has no texts", "expected at least one")
    return texts


def stored_texts(path: Path, loader: Any) -> Sequence[str] | None:
    """The texts in the cache folder; None if it cannot be written."""
    settings = [getattr(loader, name, None) for name in ("encoding", "header", "text_column")]

    def read() -> Iterator[Read]:
        return ((line, text, ()) for line, text in numbered_texts(path, loader))

    rows = stored_rows(path, f"unlabeled {settings}", (), read)
    return None if rows is None else rows.values


def numbered_texts(path: Path, loader: Any) -> Iterator[tuple[int, str]]:
    """The texts of a file with their lines, one after the other."""
    encoding = getattr(loader, "encoding", "utf-8")
    if path.suffix.lower() != PLAIN:
        yield from column_of(path, loader, encoding)
        return
    for number, line in enumerate(stream_lines(path, encoding, "data.source.encoding"), 1):
        if line.strip():
            yield number, line.strip()


def column_of(path: Path, loader: Any, encoding: str) -> Iterator[tuple[int, str]]:
    header = getattr(loader, "header", True)
    column = getattr(loader, "text_column", TEXT)
    format = SUFFIXES[path.suffix.lower()]
    key = "data.source.encoding"
    for line, row in read_rows(path, format, encoding, header, key, columns=[column]):
        name = next(iter(row)) if column not in row and len(row) == 1 else column
        if name not in row:
            raise UserError(
                f"{path}:{line}", f"no column '{name}' for the text", nearest(name, row)
            )
        text = text_of(row[name])
        if text is None:
            problem = f"text missing (column '{name}' is {shown(row[name])})"
            raise UserError(f"{path}:{line}", problem, "expected one in every row")
        yield line, text


# -- overlap ---------------------------------------------------------------------------------------
def shared_with_test(splits: Splits) -> tuple[int, str]:
    """How many training samples are test samples as well, by file or by text, and the first."""
    train, test = identities(splits.train), identities(splits.test)
    if isinstance(train, Stored) or isinstance(test, Stored):
        train, test = alike(train, test), alike(test, train)
    tested = set(test)
    if not tested:
        return 0, ""
    shared = [name for name in train if name in tested]
    return len(shared), os.fsdecode(shared[0]) if shared else ""


def alike(texts: Sequence[str], others: Sequence[str]) -> list[str]:
    """The texts whose digest is that of one of the others: only these need to be read."""
    own, known = digests_of(texts), np.sort(digests_of(others))
    rows = [np.empty(0, np.int64)]
    for start in range(0, len(own) if len(known) else 0, BLOCK):
        block = own[start : start + BLOCK]
        asked = np.sort(block)  # in the order of memory places are looked up faster
        places = np.searchsorted(known, asked).clip(max=len(known) - 1)
        common = asked[known[places] == asked]
        rows.append(np.isin(block, common).nonzero()[0] + start)
    found = np.concatenate(rows)
    if isinstance(texts, StoredTexts):
        return list(texts.taken(found))
    return [texts[row] for row in found.tolist()]


def identities(source: Source) -> Sequence[Any]:
    """What makes a sample the same in two parts: its file, its text; nothing of others."""
    if isinstance(source, Joined):
        return [name for part in source.sources for name in identities(part)]
    if isinstance(source, FolderSource):
        return list(source.paths.raw())  # to decode a million takes a second
    return source.texts if isinstance(source, TextSource) else ()
