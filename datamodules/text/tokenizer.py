"""Tokenizers: a pretrained one by name or folder, or a small WordPiece trained on the training
texts.

Either is used only to split texts into words and words into subword ids. All that follows (views,
special tokens, padding, truncation) is done in `codec.py`, on the device, for a whole batch.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from datamodules.names import expanded
from foundation.errors import UserError
from foundation.hub import one_try

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET = 200  # characters of a trained tokenizer; others become [UNK]

Ids = tuple[int, ...]
Word = tuple[Ids, int, int]  # its subword ids, and where it starts and stops in the text


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and the facts about it that the codec needs.

    pad, mask: ids of these tokens; `mask` is None if there is none.
    prefix, suffix: special ids before and after a text ([CLS] and [SEP], or those of the
        tokenizer's own template).
    sensitive: the first word of a text is coded differently from the same word later on (byte-level
        BPE codes a word together with the space before it).
    """

    name: str
    backend: Tokenizer
    pad: int
    mask: int | None
    prefix: Ids
    suffix: Ids
    sensitive: bool

    @property
    def size(self) -> int:
        """Number of rows that an embedding of these ids needs. Some vocabularies have gaps, so it
        may be larger than their number of tokens."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> list[list[Word]]:
        """The words of each text, in order, without special tokens."""
        coded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [_words(entry, self.sensitive) for entry in coded]

    def encode_without_places(self, texts: Sequence[str]) -> Iterator[list[Ids]]:
        """The subword ids of the words of each text: what `encode` returns, without places."""
        for entry in self.backend.encode_batch(list(texts), add_special_tokens=False):
            yield _pieces_of_words(entry.ids, entry.word_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text for display; [MASK] stays visible, the special tokens around the text do
        not."""
        hidden = {self.pad, *self.prefix, *self.suffix} - {self.mask}
        return self.backend.decode([i for i in ids if i not in hidden], skip_special_tokens=False)


def _words(entry, placed: bool = False) -> list[Word]:
    """Group the pieces of one encoded text by word. Spans are (0, 0) unless `placed`."""
    groups = entry.word_ids
    ids = entry.ids
    cuts = [
        i for i, group in enumerate(groups) if i == 0 or group is None or group != groups[i - 1]
    ]
    spans = entry.offsets if placed else [(0, 0)] * len(ids)
    return [(tuple(ids[a:b]), spans[a][0], spans[b - 1][1]) for a, b in pairwise([*cuts, len(ids)])]


def _pieces_of_words(ids: Sequence[int], groups: Sequence[int | None]) -> list[Ids]:
    """The ids grouped by word; what belongs to no word is one by itself."""
    words: list[Ids] = []
    last = None
    for number, group in zip(ids, groups, strict=True):
        if group is None or group != last:
            words.append((number,))
        else:
            words[-1] += (number,)
        last = group
    return words


def load_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer of a Hugging Face model, by hub name or local folder.

    Raises UserError if there is none, or if it cannot split a text into words.
    """
    from transformers import AutoTokenizer  # takes seconds to import, and most runs train their own

    # transformers takes `~` for the name of a model
    place = str(expanded(name)) if name.startswith("~") else name
    try:
        with one_try(place):
            loaded = AutoTokenizer.from_pretrained(place)
    # a missing folder, no network, a corrupt file: each raises another exception
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"data.text.tokenizer: no tokenizer at '{name}' ({reason}); "
            "expected the name of a Hugging Face model or a folder with its tokenizer files"
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"data.text.tokenizer: '{name}' has no fast tokenizer; expected a model with "
            "tokenizer.json"
        )
    fallback = loaded.eos_token_id if loaded.eos_token_id is not None else 0
    pad = loaded.pad_token_id if loaded.pad_token_id is not None else fallback
    try:
        return wrap(backend, name, pad, loaded.mask_token_id)
    except UserError:
        raise
    except Exception as error:  # a vocabulary without the tokens that its model needs
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"data.text.tokenizer: '{name}' cannot code a text ({reason}); expected the files of a "
            "Hugging Face tokenizer"
        ) from error


def wrap(backend: Tokenizer, name: str, pad: int, mask: int | None) -> TextTokenizer:
    """Find out which special ids a tokenizer puts around a text, and whether it codes the first
    word differently.

    Raises UserError if the tokenizer treats a whole text as one word (views need words).
    """
    # a copy: switching off truncation must not change the caller's tokenizer
    backend = Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    probe = "a a"
    bare = backend.encode(probe, add_special_tokens=False).ids
    full = backend.encode(probe, add_special_tokens=True).ids
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    first, *later = _words(backend.encode(probe, add_special_tokens=False))
    if not later:
        raise UserError(
            f"data.text.tokenizer: '{name}' does not split texts into words; expected one that does"
        )
    prefix, suffix = tuple(full[:start]), tuple(full[start + len(bare) :])
    return TextTokenizer(
        name, backend, pad, mask, prefix, suffix, sensitive=first[0] != later[-1][0]
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8000) -> TextTokenizer:
    """A lower-case WordPiece of at most `vocab_size` ids (including special tokens), trained on
    `texts`.

    Text is split as by BERT's tokenizer (whitespace and punctuation). Equal texts give an equal
    tokenizer. Names of special tokens within a text are ordinary words.
    """
    texts = list(texts)
    backend = _wordpiece(models.WordPiece(unk_token="[UNK]"))
    letters = _alphabet(texts, backend.normalizer)
    # By default the trainer numbers inner letters in the order of a hash table and breaks ties by
    # number, so two trainings on the same texts differ. Naming all letters in advance fixes their
    # numbers.
    fixed = [*SPECIAL, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=fixed,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # A new tokenizer, in which the fixed names are not special.
    vocab = dict(sorted(backend.get_vocab().items(), key=lambda item: item[1]))
    backend = _wordpiece(
        models.WordPiece(vocab=vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    return wrap(backend, "trained", vocab["[PAD]"], vocab["[MASK]"])


def _wordpiece(model: models.WordPiece) -> Tokenizer:
    """A tokenizer with this model that cleans and splits text as BERT's does."""
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _alphabet(texts: list[str], normalizer: normalizers.Normalizer) -> list[str]:
    """The most frequent characters of the texts, at most ALPHABET, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((-count, letter) for letter, count in counts.items() if not letter.isspace())
    return sorted(letter for _, letter in ranked[:ALPHABET])
