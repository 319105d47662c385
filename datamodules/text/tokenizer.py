"""Tokenizers: a pretrained one by name or folder, or a small WordPiece trained on the training
texts.

Either is used for one thing, to say for every word of a text which subword ids it has. What follows
(views, special tokens, padding, truncation) happens in `codec.py`, on the device, for a whole
batch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
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

from foundation.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET = 200  # letters of a trained tokenizer; a text has others as [UNK]

Ids = tuple[int, ...]
Word = tuple[Ids, int, int]  # its subword ids, and where it starts and stops in the text


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with what the codec must know about it.

    pad, mask: ids of these tokens, `mask` None where there is none. prefix, suffix: special ids
    before and after a text ([CLS] and [SEP], or whatever the tokenizer's own template puts there).
    sensitive: the first word of a text is coded differently from the same word later on (byte-level
    BPE codes the space before a word with it).
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
        """Rows that an embedding of these ids needs."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, texts: Sequence[str]) -> list[list[Word]]:
        """The words of each text, in order, without special tokens."""
        coded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [_words(entry, self.sensitive) for entry in coded]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text for people; [MASK] stays visible, the special tokens around the text do
        not."""
        hidden = {self.pad, *self.prefix, *self.suffix} - {self.mask}
        return self.backend.decode([i for i in ids if i not in hidden], skip_special_tokens=False)


def _words(entry, placed: bool = False) -> list[Word]:
    """Group the pieces of one encoded text by the word that they come from; spans only where they
    are wanted.
    """
    groups = entry.word_ids
    ids = entry.ids
    cuts = [
        i for i, group in enumerate(groups) if i == 0 or group is None or group != groups[i - 1]
    ]
    spans = entry.offsets if placed else [(0, 0)] * len(ids)
    return [(tuple(ids[a:b]), spans[a][0], spans[b - 1][1]) for a, b in pairwise([*cuts, len(ids)])]


def load_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer of a Hugging Face model, by hub name or local folder.

    Raises UserError where there is none, or where it cannot split a text into words.
    """
    from transformers import AutoTokenizer  # takes seconds to import, and most runs train their own

    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except (
        Exception
    ) as error:  # a missing folder, no network, a damaged file: each library raises its own
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
    return wrap(backend, name, pad, loaded.mask_token_id)


def wrap(backend: Tokenizer, name: str, pad: int, mask: int | None) -> TextTokenizer:
    """Learn from a tokenizer what it puts around a text and whether a word's place matters to it.

    Raises UserError where whole texts are one word to it (then no view could work on words).
    """
    backend = Tokenizer.from_str(
        backend.to_str()
    )  # switching off truncation must not change the caller's
    backend.no_truncation()
    backend.no_padding()
    probe = "a a"
    plain, full = (
        backend.encode(probe, add_special_tokens=special).ids for special in (False, True)
    )
    start = next(i for i in range(len(full)) if full[i : i + len(plain)] == plain)
    first, *later = _words(backend.encode(probe, add_special_tokens=False))
    if not later:
        raise UserError(
            f"data.text.tokenizer: '{name}' does not split texts into words; expected one that does"
        )
    prefix, suffix = tuple(full[:start]), tuple(full[start + len(plain) :])
    return TextTokenizer(
        name, backend, pad, mask, prefix, suffix, sensitive=first[0] != later[-1][0]
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8000) -> TextTokenizer:
    """A lower-case WordPiece of at most `vocab_size` ids (special tokens among them), trained on
    `texts`.

    Text is split as BERT's tokenizer does it (whitespace and punctuation). Equal texts give an
    equal tokenizer. The names of special tokens, where a text has them, are ordinary words.
    """
    texts = list(texts)
    backend = _wordpiece(models.WordPiece(unk_token="[UNK]"))
    letters = _alphabet(texts, backend.normalizer)
    # Left to itself the trainer numbers the inner letters in the order of a hash table, and breaks
    # ties by number: two trainings on the same texts differ. Named in advance, all letters have
    # fixed numbers.
    fixed = [*SPECIAL, *(f"##{letter}" for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=fixed,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    # A fresh tokenizer, to which the fixed names are not special.
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
    """A tokenizer around the model that cleans and splits text as BERT's does."""
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _alphabet(texts: list[str], normalizer: normalizers.Normalizer) -> list[str]:
    """The commonest letters and signs of the texts, at most ALPHABET of them, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    ranked = sorted((-count, letter) for letter, count in counts.items() if not letter.isspace())
    return sorted(letter for _, letter in ranked[:ALPHABET])
