"""Common parts of the loaders of published text sets: finding the folder, downloading from the hub,
and making sources."""

import re
from pathlib import Path
from typing import Any, ClassVar

from datamodules.names import expanded
from datamodules.source import Splits
from datamodules.sources.hub_folder import datasets_library, loaded
from datamodules.sources.tables import read_text
from datamodules.sources.text import TextSource, text_source
from datamodules.sources.text_file import class_names
from foundation.errors import UserError

SMALL_NUMBER = re.compile(r"[0-9]{1,9}")
Labeled = tuple[list[str], dict[str, list[str]]]  # texts, and label names by task
Parts = dict[str, Labeled]


def set_folder(root: str | Path, names: tuple[str, ...], file: str) -> Path:
    """`root`, or its first subfolder among `names`, that contains `file`, which may be a
    folder. Raises UserError if none does."""
    root = expanded(root)
    if not root.is_dir():
        raise UserError(
            f"data.root={root}: no such folder; expected the one with {names[0]}/{file} or {file}"
        )
    for folder in (root, *(root / name for name in names)):
        if (folder / file).exists():
            return folder
    raise UserError(
        f"data.root={root}: has neither {file} nor {names[0]}/{file}; expected one of them"
    )


def from_hub(name: str, *config: str, **options: Any) -> Any:
    """A set of the Hugging Face hub. Raises UserError without `datasets` or without network."""
    try:
        library = datasets_library()
    except UserError:
        raise UserError(
            "data.root is null: set data.root=FOLDER, or pip install 'roux[hub]' to download"
        ) from None
    try:
        return loaded(library, name, *config, **options)
    except Exception as error:  # no network, a renamed set: each raises another exception
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"data.root is null and downloading '{name}' failed ({reason}); set data.root=FOLDER"
        ) from error


def hub_labels(part: Any, column: str, names: list[str] | None = None) -> list[str]:
    """Labels by name: those of the feature itself, or `names` indexed by its numbers."""
    names = names or part.features[column].names
    return [names[value] for value in part[column]]


class NamedText:
    """Base of these loaders: reads parts by name (train, test, optionally val) and makes sources
    with the same classes.

    A subclass sets `folders` and `file` (which identify the set's folder), implements `info`,
    `local` and `hub`, and returns the classes in `classes`, None for those of the training part.
    """

    folders: ClassVar[tuple[str, ...]]
    file: str

    def local(self, folder: Path) -> Parts:
        """Read the parts from the set's folder."""
        raise TypeError(f"{type(self).__name__} does not implement local")

    def hub(self) -> Parts:
        """Download the parts from the Hugging Face hub."""
        raise TypeError(f"{type(self).__name__} does not implement hub")

    def classes(self) -> dict[str, list[str]] | None:
        return None

    def load(self, root: str | Path | None) -> Splits:
        if root is None:
            parts = self.hub()
        else:
            parts = self.local(set_folder(root, self.folders, self.file))
        classes = self.classes()
        if classes is None:
            labels_by_task = parts["train"][1]
            classes = {task: class_names(labels) for task, labels in labels_by_task.items()}
        sources = {name: self._source(name, part, classes) for name, part in parts.items()}
        return Splits(train=sources["train"], test=sources["test"], val=sources.get("val"))

    def _source(self, name: str, part: Labeled, classes: dict[str, list[str]]) -> TextSource:
        texts, labels = part
        for task, values in labels.items():
            strange = sorted(set(values) - set(classes[task]))
            if strange:
                raise UserError(
                    f"{type(self).__name__}: {name} part has the unknown class '{strange[0]}' "
                    f"({task})"
                )
        return text_source(texts, labels, classes)


def label_lines(path: Path) -> list[tuple[str, str]]:
    """(label, text) of a latin-1 file with lines `LABEL TEXT`."""
    pairs = []
    for number, line in enumerate(read_text(path, "latin-1").split("\n"), 1):
        if not line.strip():
            continue
        label, _, text = line.strip().partition(" ")
        if not text:
            raise UserError(
                f"{path}:{number}: '{line.strip()}'; expected a label, a space and a text"
            )
        pairs.append((label, text))
    return pairs


def numbered(path: Path, rows: list[tuple[str, str]], names: list[str]) -> Labeled:
    """Texts and label names of rows whose labels are numbers."""
    texts, labels = [], []
    for label, text in rows:
        if not (SMALL_NUMBER.fullmatch(label) and int(label) < len(names)):
            raise UserError(f"{path}: class '{label}'; expected 0 to {len(names) - 1}")
        texts.append(text)
        labels.append(names[int(label)])
    return texts, {"label": labels}
