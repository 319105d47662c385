"""Facts of a data set that are stored with a run: a trained network is built and used with them,
without the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from datamodules.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class DatasetFacts:
    """What building and using a network needs to know about its data.

    classes: class names by task.
    counts: labeled training samples per class, by task.
    missing: tasks for which some samples have no label.
    sizes: samples of each part.
    tokenizer: None for images.
    """

    classes: dict[str, list[str]]
    counts: dict[str, list[int]]
    missing: list[str]
    sizes: dict[str, int]
    tokenizer: TextTokenizer | None = None

    def plain(self) -> dict[str, Any]:
        """In builtin types: loading a checkpoint must not run code."""
        shallow = {name: getattr(self, name) for name in ("classes", "counts", "missing", "sizes")}
        return shallow | {"tokenizer": None if self.tokenizer is None else _plain(self.tokenizer)}

    @classmethod
    def from_plain(cls, given: Mapping[str, Any]) -> "DatasetFacts":
        kept = given["tokenizer"]
        return cls(**(dict(given) | {"tokenizer": None if kept is None else _restored(kept)}))


def _plain(tokenizer: TextTokenizer) -> dict[str, Any]:
    shallow = {name: getattr(tokenizer, name) for name in ("name", "pad", "mask", "sensitive")}
    ends = {"prefix": list(tokenizer.prefix), "suffix": list(tokenizer.suffix)}
    return shallow | ends | {"backend": tokenizer.backend.to_str()}


def _restored(given: Mapping[str, Any]) -> TextTokenizer:
    ends = {name: tuple(given[name]) for name in ("prefix", "suffix")}
    return TextTokenizer(**(dict(given) | ends | {"backend": Tokenizer.from_str(given["backend"])}))
