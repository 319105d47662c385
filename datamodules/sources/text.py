"""Labeled texts in memory or in the cache folder, and the common parts of the loaders of text
sets."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from datamodules.source import Kind, Source, Splits
from datamodules.sources.coded_names import CodedNames
from datamodules.sources.stored_texts import Stored, StoredTexts, joined
from datamodules.sources.word_table import BLOCK, WordTable
from datamodules.splits import class_members
from foundation.randomness import generator

if TYPE_CHECKING:
    from datamodules.text.codec import Codec


Labels = dict[str, Sequence[str | None]]  # class names by task; None for no label


class TextSource(Source):
    """Texts and their targets.

    texts: N strings, kept for display; those of large files stay in the cache folder.
    targets: int64 [N] by task.
    classes: names by task.

    `encode` must be called before `fetch`: it numbers the words of the texts once.

    words: int32 [N, W], 0 on the right; of texts in the cache folder a table without padding.
    """

    kind: ClassVar[Kind] = "text"
    words: Tensor | WordTable

    def __init__(
        self, texts: Sequence[str], targets: dict[str, Tensor], classes: dict[str, list[str]]
    ):
        for task, values in targets.items():
            if values.dtype != torch.int64 or values.shape != (len(texts),):
                raise ValueError(
                    f"targets of '{task}' must be int64 [{len(texts)}], one for each text"
                )
        self.texts = texts if isinstance(texts, Stored) else list(texts)
        self.targets = targets
        self.classes = classes
        self._codec: Codec | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def encoded(self) -> bool:
        """Whether the words are numbered."""
        return self._codec is not None

    @property
    def codec(self) -> "Codec":
        if self._codec is None:
            raise RuntimeError(
                "this text source has no codec yet; call encode(codec), or Tokenize()(splits)"
            )
        return self._codec

    def encode(self, codec: "Codec") -> None:
        """Number the words in memory, and store the length of every text."""
        words = codec.encode(self.texts)
        lengths = codec.count(words.to(codec.pieces.device)).cpu()
        self.take_words(codec, words, lengths)

    def take_words(self, codec: "Codec", words: Tensor | WordTable, lengths: Tensor) -> None:
        """Take words that are numbered already. lengths: [N], ids of each text."""
        self._codec = codec
        self.words = words
        self.lengths = lengths
        if isinstance(words, Tensor):
            self.counts = (words > 0).sum(1)
            self.width = words.shape[1]
        else:
            self.counts = words.counts()
            self.width = max(int(self.counts.max()), 1)

    def word_blocks(self) -> Iterator[Tensor]:
        """The words of all texts, some at a time: int32 [n, W]."""
        if isinstance(self.words, Tensor):
            return iter(self.words.split(BLOCK))
        return self.words.blocks()

    def fetch(self, indices: Tensor) -> dict[str, Any]:
        """A batch, trimmed to its longest text.

        words: int32 [B, W], W rounded up to a multiple of 8.
        length, width: ints; the ids of the longest original and the most ids of its longest view.
            They are computed here, from lengths on the host, to avoid a device sync later.
        """
        return self.fetch_there(indices, indices)

    def fetch_there(self, indices: Tensor, there: Tensor) -> dict[str, Any]:
        codec = self.codec
        most_words = 0
        most_ids = codec.special
        if len(indices):
            most_words = int(self.counts[indices].max())
            most_ids = int(self.lengths[indices].max())
        trimmed = min(-(-max(most_words, 1) // 8) * 8, self.width)
        length, width = codec.widths(most_ids)
        if isinstance(self.words, Tensor):
            words = self.words[there, :trimmed]
        else:
            words = self.words.take(there, trimmed)
        return {"words": words, "length": length, "width": width}

    def signature(self, rows: slice) -> bytes:
        if isinstance(self.texts, StoredTexts):
            return self.texts.packed(range(len(self))[rows])
        return "\0".join(self.texts[rows]).encode("utf-8", "surrogatepass")

    def name_of(self, row: int) -> str:
        text = " ".join(self.texts[row][:80].split())
        return text if len(text) <= 40 else f"{text[:40]}…"

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    def on(self, device: torch.device) -> "TextSource":
        placed = copy.copy(self)  # lengths stay on the host, where `fetch` reads them
        placed.words = self.words.to(device)
        return placed


def is_large(source: Source) -> bool:
    """Whether a source has texts that stay in the cache folder."""
    return isinstance(source, TextSource) and isinstance(source.texts, Stored)


def text_source(
    texts: Sequence[str],
    labels: Mapping[str, Sequence[str | None]],
    classes: dict[str, list[str]],
) -> TextSource:
    """A source from labels by name, None for no label; every other one must be among the classes of
    its task."""
    return TextSource(texts, numbered(labels, classes), classes)


def numbered(
    labels: Mapping[str, Sequence[str | None]], classes: Mapping[str, list[str]]
) -> dict[str, Tensor]:
    """int64 targets by task, the place of each label among the classes; -1 for no label."""
    targets = {}
    for task, names in labels.items():
        number: dict[str | None, int] = {name: i for i, name in enumerate(classes[task])}
        number[None] = -1
        if isinstance(names, CodedNames):
            targets[task] = torch.from_numpy(names.places(number))
        else:
            targets[task] = torch.tensor([number[name] for name in names], dtype=torch.int64)
    return targets


def joined_texts(source: TextSource, texts: Sequence[str]) -> TextSource:
    """The same texts, and further ones without labels."""
    none = torch.full((len(texts),), -1, dtype=torch.long)
    targets = {task: torch.cat([values, none]) for task, values in source.targets.items()}
    return TextSource(joined([source.texts, texts]), targets, source.classes)


def stratified_split(labels: Tensor, fraction: float, *key: object) -> tuple[Tensor, Tensor]:
    """(kept, held out) positions, sorted: round(fraction * n) of each class, at least one, are held
    out, drawn from `key`.

    The only sample of a class is kept, and so are samples without a label (-1).
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for members in class_members(labels):
        label = int(labels[members[0]])
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = torch.randperm(len(members), generator=generator("stratified", *key, label))
        held[members[order[:count]]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def split_source(source: TextSource, fraction: float, *key: object) -> Splits:
    """Hold out a test part, stratified by the first task."""
    kept, held = stratified_split(next(iter(source.targets.values())), fraction, *key)
    return Splits(train=subset(source, kept), test=subset(source, held))


def subset(source: TextSource, indices: Tensor) -> TextSource:
    """A source of the texts at these positions."""
    targets = {task: values[indices] for task, values in source.targets.items()}
    if isinstance(source.texts, StoredTexts):
        return TextSource(source.texts.taken(indices.numpy()), targets, source.classes)
    return TextSource([source.texts[i] for i in indices.tolist()], targets, source.classes)
