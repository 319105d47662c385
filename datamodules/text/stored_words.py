"""Words of texts that stay in the cache folder, and the tokenizer that was trained on them."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import Tokenizer
from torch import Tensor

from datamodules.sources.cache import Entry, kept, key_of
from datamodules.sources.stored_texts import Stored, identity_of, size_of
from datamodules.sources.text import TextSource
from datamodules.sources.word_table import MappedWords
from datamodules.text.codec import Codec
from datamodules.text.tokenizer import TextTokenizer, train_tokenizer, wrap

TRAINED_TEXTS = 1_000_000  # most texts that a tokenizer is trained on
TRAINED_BYTES = 2**27  # and their most bytes
BLOCK = 2**20  # words that are written at once


# -- the tokenizer ---------------------------------------------------------------------------------
def training_step(texts: Sequence[str]) -> int:
    """Every how many texts one is trained on: all of them unless they are too many."""
    by_number = -(-len(texts) // TRAINED_TEXTS)
    by_size = -(-size_of(texts) // TRAINED_BYTES)
    return max(by_number, by_size, 1)


def trained(texts: Sequence[str], vocab_size: int) -> TextTokenizer:
    """A tokenizer trained on texts, or on some of them at equal distances. That of texts in the
    cache folder is kept there too."""
    every = training_step(texts)

    def make() -> TextTokenizer:
        return train_tokenizer(texts[::every] if every > 1 else texts, vocab_size)

    if not isinstance(texts, Stored):
        return make()

    def write(folder: Path) -> dict[str, Any]:
        made = make()
        (folder / "tokenizer.json").write_text(made.backend.to_str(), encoding="utf-8")
        return {"pad": made.pad, "mask": made.mask}

    key = key_of(texts.identity, vocab_size, every, tokenizers.__version__)
    entry = kept("tokenizers", key, write)
    if entry is None:
        return make()
    backend = Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    return wrap(backend, "trained", entry.facts["pad"], entry.facts["mask"])


# -- words -----------------------------------------------------------------------------------------
def encode_parts(parts: Sequence[TextSource], tokenizer: TextTokenizer, max_length: int) -> Codec:
    """Number the words of all parts, in order. Those of large files are kept in the cache folder,
    as one entry for all parts: a word has the number of its first occurrence in any of them."""
    codec = Codec(tokenizer, max_length)
    entry = stored_words(parts, tokenizer, max_length)
    if entry is None:
        for part in parts:
            part.encode(codec)
        return codec
    table = [torch.from_numpy(np.array(entry.array(f"{name}.bin", np.int64))) for name in TABLE]
    codec.restore(*table)
    for number, part in enumerate(parts):
        words = MappedWords(entry.folder, str(number))
        lengths = torch.from_numpy(entry.array(f"lengths_{number}.bin", np.int32))
        part.take_words(codec, words, lengths)
    return codec


TABLE = ("pieces", "lengths")  # of the codec


def stored_words(
    parts: Sequence[TextSource], tokenizer: TextTokenizer, max_length: int
) -> Entry | None:
    """The entry of these parts. None if all are in memory, or the cache folder cannot be
    written."""
    if not any(isinstance(part.texts, Stored) for part in parts):
        return None

    def make(folder: Path) -> dict[str, Any]:
        codec = Codec(tokenizer, max_length)
        for number, part in enumerate(parts):
            write_words(folder, str(number), part.texts, codec)
        codec.complete()
        for number in range(len(parts)):
            write_lengths(folder, str(number), codec)
        for name in TABLE:
            getattr(codec, name).numpy().tofile(folder / f"{name}.bin")
        return {}

    settings = (tokenizer.backend.to_str(), tokenizer.prefix, tokenizer.suffix, tokenizer.pad)
    texts = [identity_of(part.texts) for part in parts]
    return kept("words", key_of(texts, settings, tokenizers.__version__, max_length), make)


def write_words(folder: Path, name: str, texts: Sequence[str], codec: Codec) -> None:
    """Write the words of texts, and where each text begins, in blocks."""
    words, bounds = array("i"), array("q", [0])
    total = 0
    with (folder / f"words_{name}.bin").open("wb") as all_words:
        for row in codec.number(texts):
            words.extend(row)
            total += len(row)
            bounds.append(total)
            if len(words) >= BLOCK:
                words.tofile(all_words)
                del words[:]
        words.tofile(all_words)
    with (folder / f"bounds_{name}.bin").open("wb") as file:
        bounds.tofile(file)


def write_lengths(folder: Path, name: str, codec: Codec) -> None:
    """Write the ids of each text."""
    with (folder / f"lengths_{name}.bin").open("wb") as file:
        for block in MappedWords(folder, name).blocks():
            ids: Tensor = codec.count(block)
            ids.to(torch.int32).numpy().tofile(file)
