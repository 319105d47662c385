"""Small text sets that the tests of text share, and where the real ones lie."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from datamodules.sources.text import TextSource
from datamodules.text import Codec, TextTokenizer, train_tokenizer
from datamodules.text.tokenizer import wrap
from foundation.randomness import Randomness

DATA = Path(__file__).parents[3] / "shared" / "data"

TEXTS = [
    "The quick brown fox jumps over the lazy dog, again and again.",
    "A tokenizer splits words into pieces; pieces have numbers!",
    "Don't panic: unbelievable antidisestablishmentarianism happens.",
    "Short.",
    "Two words",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen",
    "Fox and dog and fox and dog, the lazy fox, the quick dog.",
    "Numbers such as 1984 or 3.14 are words, and so is e-mail@example.org.",
]


def real(folder: str) -> Path:
    """The folder with the real sets; skips the test where this one is not there."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"{folder} is not in {DATA}")
    return DATA


def byte_level(texts: list[str]) -> TextTokenizer:
    """A byte-level BPE as RoBERTa has it: the space before a word is coded with it, the first word
    has none.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    return wrap(backend, "byte-level", pad=1, mask=3)


def source(
    texts: list[str] = TEXTS, tokenizer: TextTokenizer | None = None, max_length: int = 64
) -> TextSource:
    """An encoded source of these texts with two classes."""
    made = TextSource(texts, {"label": torch.arange(len(texts)) % 2}, {"label": ["a", "b"]})
    made.encode(Codec(tokenizer or train_tokenizer(TEXTS, 300), max_length))
    return made


def draws(rows: int, step: int = 0, rank: int = 0, world: int = 1):
    """`draw_for` of `rows` local samples."""
    randomness = Randomness(seed=7, step=step, rank=rank, world=world)
    return lambda purpose: randomness.draw(purpose, rows)


def decoded(view: dict, row: int) -> list[int]:
    """Ids of one row under the mask."""
    return view["ids"][row][view["mask"][row]].tolist()
