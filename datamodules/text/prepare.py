"""Tokenization of the texts of a data set: `data.text` in a config."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from datamodules.source import Source, Splits
from datamodules.sources.text import TextSource
from datamodules.text.codec import Codec
from datamodules.text.stored_words import encode_parts, trained
from datamodules.text.tokenizer import load_tokenizer


class Tokenize:
    """Chooses the tokenizer, numbers the words of all parts of a set, and gives each part the
    codec.

    tokenizer: name or folder, `train`, or `auto`: that of `network`, else trained. A name or folder
        of a Hugging Face tokenizer; `train` trains one on the training texts alone, at most a
        million of them, at equal distances.
    max_length: ids of a text, special tokens among them, at least 8.
    vocab_size: ids of a trained tokenizer at most, at least 100.
    network: pretrained encoder, by name or folder, whose tokenizer `auto` takes; null: none.
    """

    def __init__(
        self,
        tokenizer: str = "auto",
        max_length: Annotated[int, Field(ge=8)] = 64,
        vocab_size: Annotated[int, Field(ge=100)] = 8000,
        network: str | None = None,
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.vocab_size = vocab_size
        self.network = network

    @property
    def pretrained(self) -> str | None:
        """Name or folder of the tokenizer to load, None to train one."""
        name = self.network if self.tokenizer == "auto" else self.tokenizer
        return None if name == "train" else name

    def __call__(self, splits: Splits, more: Sequence[Source] = ()) -> Codec:
        found = (splits.train, splits.val, splits.test, *more)
        parts = [part for part in found if isinstance(part, TextSource)]
        if self.pretrained is None:
            tokenizer = trained(parts[0].texts, self.vocab_size)
        else:
            tokenizer = load_tokenizer(self.pretrained)
        return encode_parts(parts, tokenizer, self.max_length)
